//! Clients that mean harm, or are broken: the router stays up, its memory stays bounded, and others go on.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config};

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Router, Sql as _, connect, trials, until};

trials! {
    shared garbage_before_the_login_ends_that_connection_only,
    shared garbage_after_the_login_ends_that_session_only,
    shared bodies_without_their_form_are_answered_as_postgres_does,
    shared messages_out_of_order_are_answered_as_postgres_does,
    shared names_and_texts_of_any_bytes_are_answered,
    shared a_client_that_does_not_read_does_not_fill_the_routers_memory,
    shared requests_without_end_do_not_fill_the_routers_memory,
    shared values_of_a_gigabyte_are_streamed,
    shared a_client_that_sends_byte_by_byte_is_served,
    shared logins_that_never_finish_end_in_time,
}

/// What the router may grow by for one client, with everything that a test process around it does at the same time.
const GROWTH_KB_MAX: u64 = 48 * 1024;

/// A router of its own, and a client that must not suffer.
struct Scene {
    router: Router,
    witness: Client,
    config: Config,
    kb: u64,
}

impl Scene {
    async fn begin(fleet: &Fleet, tenant: &str, settings: &[&str]) -> Self {
        fleet.create(tenant, &[]).await;
        let router = fleet.router(settings).await;
        let config = router.through(&fleet.config(tenant));
        let witness = connect(&config).await.unwrap();
        witness.run("SELECT 1").await;
        let mut scene = Self { router, witness, config, kb: 0 };
        scene.kb = scene.memory_kb();
        scene
    }

    async fn login(&self) -> Raw {
        Raw::login(&self.config, &[]).await
    }

    async fn open(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.router.port)).await.unwrap()
    }

    fn memory_kb(&self) -> u64 {
        let path = format!("/proc/{}/status", self.router.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// All is well: for the witness, for whoever comes, and with the memory.
    async fn end(self) {
        self.witness.run("SELECT 1").await;
        connect(&self.config).await.unwrap().run("SELECT 1").await;
        assert!(self.router.ended().is_none(), "{}", self.router.log());
        assert!(!self.router.log().contains("panicked"), "{}", self.router.log());
        let grown = self.memory_kb() - self.kb;
        assert!(grown < GROWTH_KB_MAX, "grown by {grown} KB");
    }
}

/// All that a peer still says, as bytes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that is reset has said all it had to say.
    drop(stream.read_to_end(&mut bytes).await);
    bytes
}

fn startup(parameters: &[u8]) -> Vec<u8> {
    let length = u32::try_from(parameters.len() + 8).unwrap().to_be_bytes();
    [&length[..], &[0, 3, 0, 0], parameters].concat()
}

async fn garbage_before_the_login_ends_that_connection_only(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "garbage", &["login_timeout=1s"]).await;
    let hello = startup(b"user\0nobody\0database\0garbage\0\0");
    let password = |length: u32| [&hello[..], b"p", &length.to_be_bytes()].concat();
    let cases: [Vec<u8>; 14] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        vec![0, 0, 0, 4],
        vec![0x80, 0, 0, 8, 0, 3, 0, 0],
        startup(b"user"),
        startup(b"user\0a\0database\0garbage\0more\0\0\0\0"),
        startup(b"user\0\xff\xfe\0\0"),
        [startup(b"")[..4].to_vec(), vec![9; 4]].concat(),
        password(0x7fff_ffff),
        password(0xffff_ffff),
        [&hello[..], b"Q\0\0\0\x0dSELECT 1\0"].concat(),
        [password(40), vec![0; 36]].concat(),
    ];
    for case in cases {
        let mut stream = scene.open().await;
        drop(stream.write_all(&case).await);
        let answer = rest(&mut stream).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.contains("FATAL"), "{case:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    scene.end().await;
}

async fn garbage_after_the_login_ends_that_session_only(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "garbageafter", &[]).await;
    // A header that lies about its length, or a letter that nobody knows.
    let headers: [(&[u8], &str); 7] = [
        (b"Q\x7f\xff\xff\xff", "E:54000"),
        (b"B\x7f\xff\xff\xff", "E:54000"),
        (b"Q\0\0\0\0", "E:08P01"),
        (b"P\0\0\0\x03", "E:08P01"),
        (b"S\x80\0\0\x04", "E:08P01"),
        (b"E\xff\xff\xff\xff", "E:08P01"),
        (b"~\0\0\0\x04", "E:08P01"),
    ];
    for (bytes, expected) in headers {
        let mut raw = scene.login().await;
        raw.bytes(bytes).flush().await;
        assert_eq!(raw.reply().await.as_deref(), Some(expected), "{bytes:?}");
        assert_eq!(raw.reply().await, None);
    }
    scene.end().await;
}

/// All that comes until the answer to `SELECT 'end'`, which is asked here.
async fn to_the_end(raw: &mut Raw) -> Vec<String> {
    raw.query("SELECT 'end'").flush().await;
    let mut replies = Vec::new();
    loop {
        let Some(reply) = raw.reply().await else {
            replies.push("closed".to_owned());
            return replies;
        };
        let is_last = reply.starts_with("Z:") && replies.iter().any(|reply| reply == "D:end");
        replies.push(reply);
        if is_last {
            return replies;
        }
    }
}

async fn bodies_without_their_form_are_answered_as_postgres_does(fleet: &Fleet) {
    let bodies: [(u8, &[u8]); 29] = [
        (b'Q', b"SELECT 1"),
        (b'Q', b""),
        (b'Q', b"SELECT 1\0; SET x = 1\0"),
        (b'P', b""),
        (b'P', b"a"),
        (b'P', b"a\0SELECT 1\0"),
        (b'P', b"a\0SELECT 1\0\0\x05\0"),
        (b'P', b"a\0SELECT 1\0\xff\xff"),
        (b'P', b"a\0SELECT 1\0\0\0x"),
        (b'B', b""),
        (b'B', b"a"),
        (b'B', b"\0s"),
        (b'B', b"\0s\0"),
        (b'B', b"\0s\0\0\x05"),
        (b'B', b"\0s\0\0\0\0\x01\0\0"),
        (b'B', b"\0s\0\0\0\0\0\0\0x"),
        (b'D', b""),
        (b'D', b"S"),
        (b'D', b"X\0"),
        (b'D', b"Ss\0x"),
        (b'E', b""),
        (b'E', b"\0\0\0"),
        (b'E', b"\0\0\0\0\0x"),
        (b'C', b"Sname"),
        (b'C', b"X\0"),
        (b'C', b"Ss\0x"),
        (b'F', b"\0"),
        (b'H', b"x"),
        (b'S', b"x"),
    ];
    let scene = Scene::begin(fleet, "malformed", &[]).await;
    let postgres: Config = fleet.server_url("pg-1").parse().unwrap();
    for (number, (tag, body)) in bodies.into_iter().enumerate() {
        for begin in ["", "BEGIN"] {
            // One that the router has not had prepared for somebody else before.
            let fresh = format!("SELECT {number} AS in_{begin}");
            let mut answers = Vec::new();
            for config in [&scene.config, &postgres] {
                let mut raw = Raw::login(config, &[]).await;
                raw.parse("s", "SELECT 1").sync().query(begin);
                // Alone, and among others that are skipped or not.
                raw.message_of(tag, |out| out.extend(body)).sync();
                raw.parse("t", &fresh).message_of(tag, |out| out.extend(body)).execute("t", &[]).sync();
                raw.query("ROLLBACK").execute("s", &[]).sync();
                answers.push(to_the_end(&mut raw).await);
            }
            let what = format!("{} {body:?} after {begin:?}", char::from(tag));
            assert_eq!(answers[0], answers[1], "{what}: the router, and Postgres");
            assert!(answers[0].contains(&"E:08P01".to_owned()), "{what}: {answers:?}");
        }
    }
    scene.end().await;
}

async fn messages_out_of_order_are_answered_as_postgres_does(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "disorder", &[]).await;
    let mut raw = scene.login().await;
    // Outside a COPY its messages are ignored.
    raw.message_of(b'd', |body| body.extend(b"1\n"))
        .message_of(b'c', |_| {})
        .message_of(b'f', |body| body.extend(b"no\0"));
    raw.query("SELECT 1");
    assert_eq!(raw.replies(1).await, ["T", "D:1", "C:SELECT 1", "Z:I"]);
    // What is not there.
    raw.message_of(b'E', |body| body.extend(b"none\0\0\0\0\0")).sync();
    raw.message_of(b'D', |body| body.extend(b"Pnone\0")).sync();
    raw.message_of(b'D', |body| body.extend(b"Snone\0")).sync();
    raw.message_of(b'C', |body| body.extend(b"Snone\0"))
        .message_of(b'C', |body| body.extend(b"Pnone\0"))
        .sync();
    assert_eq!(raw.replies(4).await, ["E:34000", "Z:I", "E:34000", "Z:I", "E:26000", "Z:I", "3", "3", "Z:I"]);
    for _ in 0..1000 {
        raw.sync();
    }
    assert_eq!(raw.replies(1000).await, vec!["Z:I"; 1000]);
    for _ in 0..1000 {
        raw.message_of(b'H', |_| {});
    }
    raw.query("CREATE TABLE t (n int)").query("COPY t FROM STDIN");
    raw.message_of(b'd', |body| body.extend(b"1\n")).sync().message_of(b'H', |_| {}).message_of(b'c', |_| {});
    assert_eq!(raw.replies(2).await, ["C:CREATE TABLE", "Z:I", "G", "C:COPY 1", "Z:I"]);
    // A query inside a COPY: it fails, as it does in Postgres, and the session with it or not.
    raw.query("COPY t FROM STDIN").query("SELECT 1").flush().await;
    let mut replies = Vec::new();
    while let Some(reply) = raw.reply().await {
        replies.push(reply);
        if replies.last().is_some_and(|reply| reply.starts_with("Z:")) {
            break;
        }
    }
    assert_eq!(replies[..2], ["G", "E:08P01"], "{replies:?}");
    // A password after the login.
    let mut late = scene.login().await;
    late.message_of(b'p', |body| body.extend(b"secret\0")).flush().await;
    assert_eq!(late.reply().await.as_deref(), Some("E:08P01"));
    scene.end().await;
}

async fn names_and_texts_of_any_bytes_are_answered(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "anybytes", &[]).await;
    let mut raw = scene.login().await;
    raw.message_of(b'Q', |body| body.extend(b"SELECT '\xff\xfe'\0"));
    assert_eq!(raw.replies(1).await, ["E:22021", "Z:I"]);
    // Names of statements are only compared.
    let name = b"\xff\xfe\x01";
    raw.message_of(b'P', |body| body.extend([&name[..], b"\0SELECT 7\0\0\0"].concat()));
    raw.message_of(b'B', |body| body.extend([b"\0", &name[..], b"\0\0\0\0\0\0\0"].concat()));
    raw.message_of(b'E', |body| body.extend(b"\0\0\0\0\0")).sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "D:7", "C:SELECT 1", "Z:I"]);
    // A zero byte ends a text: what follows is not of the message's form.
    raw.message_of(b'Q', |body| body.extend(b"SELECT 1\0; SET x = 1\0"));
    assert_eq!(raw.replies(1).await, ["E:08P01", "Z:I"]);
    scene.end().await;
}

async fn a_client_that_does_not_read_does_not_fill_the_routers_memory(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "unread", &[]).await;
    let mut raw = scene.login().await;
    raw.query("SELECT repeat('x', 1000000) FROM generate_series(1, 300)").flush().await;
    // The server has more to say, and nobody who takes it: it waits to write.
    let stuck = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'ClientWrite'";
    until("the server to wait", async || (scene.witness.number(stuck).await == 1).then_some(())).await;
    for _ in 0..20 {
        scene.witness.run("SELECT 1").await;
    }
    drop(raw);
    until("the query to be stopped", async || (scene.witness.number(stuck).await == 0).then_some(())).await;
    scene.end().await;
}

async fn requests_without_end_do_not_fill_the_routers_memory(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "flood", &[]).await;
    let mut streams = Vec::new();
    // Answered by servers, by the router itself, and never.
    let requests: [&[u8]; 3] = [b"Q\0\0\0\x0dSELECT 1\0", b"S\0\0\0\x04", b"H\0\0\0\x04"];
    for request in requests {
        let mut raw = scene.login().await;
        let many = request.repeat(64 * 1024);
        let sent = async {
            for _ in 0..200 {
                raw.bytes(&many);
                if raw.try_flush().await.is_err() {
                    break;
                }
            }
        };
        // It ends when the router takes no more; or all is taken, because there is nothing to answer.
        drop(tokio::time::timeout(Duration::from_secs(2), sent).await);
        scene.witness.run("SELECT 1").await;
        streams.push(raw);
    }
    drop(streams);
    scene.end().await;
}

async fn values_of_a_gigabyte_are_streamed(fleet: &Fleet) {
    // Nearly the most that Postgres takes of a value; its own message has to be below 1 GiB, too.
    const BYTES: usize = 1_000_000_000;
    let scene = Scene::begin(fleet, "huge", &[]).await;
    let mut raw = scene.login().await;
    raw.query(&format!("SELECT repeat('x', {BYTES})")).flush().await;
    let mut read = 0;
    while read < BYTES {
        read += raw.read_some().await;
    }
    raw.sync();
    // A parameter of that length, sent piece by piece.
    let mut raw = scene.login().await;
    raw.parse("", "SELECT length($1::text)");
    let head = b"\0\0\0\0\0\x01";
    let length = 4 + head.len() + 4 + BYTES + 2;
    raw.bytes(b"B").bytes(&u32::try_from(length).unwrap().to_be_bytes()).bytes(head);
    raw.bytes(&u32::try_from(BYTES).unwrap().to_be_bytes());
    let piece = vec![b'x'; 1_000_000];
    for _ in 0..BYTES / piece.len() {
        raw.bytes(&piece).flush().await;
    }
    raw.bytes(b"\0\0").message_of(b'E', |body| body.extend(b"\0\0\0\0\0")).sync();
    assert_eq!(
        raw.replies(1).await,
        ["1".into(), "2".into(), format!("D:{BYTES}"), "C:SELECT 1".into(), "Z:I".into()]
    );
    scene.end().await;
}

async fn a_client_that_sends_byte_by_byte_is_served(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "bytewise", &[]).await;
    let mut raw = scene.login().await;
    for byte in b"Q\0\0\0\x0dSELECT 1\0P\0\0\0\x11s\0SELECT 2\0\0\0B\0\0\0\x0d\0s\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04" {
        raw.bytes(&[*byte]).flush().await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.replies(2).await, ["T", "D:1", "C:SELECT 1", "Z:I", "1", "2", "D:2", "C:SELECT 1", "Z:I"]);
    scene.end().await;
}

async fn logins_that_never_finish_end_in_time(fleet: &Fleet) {
    let scene = Scene::begin(fleet, "neverending", &["login_timeout=1s"]).await;
    let hello = startup(b"user\0nobody\0database\0neverending\0\0");
    let mut streams = Vec::new();
    for cut in (0..100).map(|n| n % (hello.len() + 1)) {
        let mut stream = scene.open().await;
        stream.write_all(&hello[..cut]).await.unwrap();
        streams.push(stream);
    }
    scene.witness.run("SELECT 1").await;
    for stream in &mut streams {
        rest(stream).await;
    }
    scene.end().await;
}
