//! The command line and several control planes: which one it asks, how long it waits, and to whom it shows its token.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::{Output, tenantry, trials};

trials! {
    plain an_instance_that_hangs_is_given_up_and_the_next_one_asked,
    plain a_change_is_waited_for_as_long_as_it_is_under_way,
    plain a_change_whose_instance_ended_in_the_middle_is_said_to_be,
    plain the_leader_is_found_among_the_addresses_given_and_nowhere_else,
}

/// Something that listens. It ends with the test.
struct Instance {
    url: String,
    /// The lines of each request but for those for health.
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    serving: JoinHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Instance {
    /// Answers the requests by their number, from 0; with nothing, it breaks the connection off.
    async fn that(answer: impl Fn(usize) -> Option<(u16, Value)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, answer) = (asked.clone(), Arc::new(answer));
        let serving = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (noted, answer) = (noted.clone(), answer.clone());
                tokio::spawn(async move { serve(socket, &noted, &*answer).await });
            }
        });
        Self { url, asked, serving }
    }

    /// Takes connections, and says nothing.
    async fn that_hangs() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await.unwrap());
            }
        });
        Self { url, asked: Arc::default(), serving }
    }

    /// Says that it does not lead, and who does.
    async fn that_follows(leader: &str) -> Self {
        let problem = json!({ "leader": leader, "hint": format!("ask the one that does: {leader}") });
        Self::that(move |_| Some((503, kind(problem.clone(), "not-leading")))).await
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// The values of a header, of each request.
    fn headers(&self, name: &str) -> Vec<String> {
        let value = |line: &String| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned());
        let asked = self.asked.lock().unwrap();
        asked.iter().filter_map(|lines| lines.iter().find_map(value)).collect()
    }
}

/// A problem of one of the API's own types.
fn kind(mut problem: Value, kind: &str) -> Value {
    problem["type"] = json!(format!("urn:tenantry:problem:{kind}"));
    problem["error"] = json!(format!("it is {kind}"));
    problem
}

async fn serve(
    mut socket: TcpStream,
    asked: &Mutex<Vec<Vec<String>>>,
    answer: &(impl Fn(usize) -> Option<(u16, Value)> + ?Sized),
) {
    let mut lines = Vec::new();
    let mut reader = BufReader::new(&mut socket);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).await.unwrap();
    let answered = if lines[0].starts_with("GET /healthz ") {
        Some((200, json!("ok")))
    } else {
        let number = {
            let mut asked = asked.lock().unwrap();
            asked.push(lines);
            asked.len() - 1
        };
        answer(number)
    };
    let Some((status, body)) = answered else { return };
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    drop(socket.write_all(format!("{head}{body}").as_bytes()).await);
}

async fn ask(instances: &[&str], args: &[&str]) -> Output {
    let variables = [("TENANTRY_API", &*instances.join(",")), ("TENANTRY_TOKEN", "a-token")];
    tenantry(&[args, &["-o", "json"]].concat(), &variables).await
}

const SUSPEND: [&str; 4] = ["tenant", "suspend", "acme", "--no-wait"];

async fn an_instance_that_hangs_is_given_up_and_the_next_one_asked() {
    let (hung, well) = (Instance::that_hangs().await, Instance::that(|_| Some((200, json!([])))).await);
    let alone = async { ask(&[&hung.url], &["tenant", "list"]).await };
    let change = async { ask(&[&hung.url], &SUSPEND).await };
    let both = async { ask(&[&hung.url, &well.url], &["tenant", "list"]).await };
    let (alone, change, both) = tokio::join!(alone, change, both);
    let error = alone.error(5);
    assert!(error.contains("does not answer") && error.contains("/healthz"), "{error}");
    assert!(change.hint().contains("audit"), "it may have been made: {}", change.stderr);
    change.error(5);
    assert_eq!(both.ok(), json!([]));
}

async fn a_change_is_waited_for_as_long_as_it_is_under_way() {
    // Longer than it is asked again when nothing is known of it.
    const TIMES: usize = 50;
    let slow = Instance::that(|number| match number {
        0 => None,
        1..=TIMES => Some((409, kind(json!({}), "under-way"))),
        _ => Some((200, json!({ "operation": 7 }))),
    });
    let slow = slow.await;
    assert_eq!(ask(&[&slow.url], &SUSPEND).await.ok()["operation"], 7);
    let mut keys = slow.headers("idempotency-key");
    assert_eq!(keys.len(), TIMES + 2);
    keys.dedup();
    assert_eq!(keys.len(), 1, "the same key each time: it is one change");
}

async fn a_change_whose_instance_ended_in_the_middle_is_said_to_be() {
    let ended = Instance::that(|number| match number {
        0 => None,
        1 => Some((409, kind(json!({}), "under-way"))),
        _ => Some((409, kind(json!({ "hint": "look with tenantry audit" }), "cut-short"))),
    });
    let ended = ended.await;
    let output = ask(&[&ended.url], &SUSPEND).await;
    assert!(output.hint().contains("audit"), "{}", output.stderr);
    assert!(output.error(4).contains("cut-short"));
}

async fn the_leader_is_found_among_the_addresses_given_and_nowhere_else() {
    let elsewhere = Instance::that(|_| Some((200, json!({ "operation": 8 })))).await;
    let follower = Instance::that_follows(&elsewhere.url).await;
    let leader = Instance::that(|_| Some((200, json!({ "operation": 7 })))).await;
    let alone = ask(&[&follower.url], &SUSPEND).await;
    assert!(alone.hint().contains("TENANTRY_API"), "{}", alone.stderr);
    alone.error(5);
    let all = ["http://127.0.0.1:1", &follower.url, &leader.url];
    assert_eq!(ask(&all, &SUSPEND).await.ok()["operation"], 7);
    assert_eq!((follower.count(), leader.count()), (2, 1));
    assert_eq!(leader.headers("authorization"), ["Bearer a-token"]);
    assert_eq!(elsewhere.count(), 0, "its address comes from a follower, and not from the operator");
}
