//! Ways to servers that can be cut, for some who use them and not for others.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Who comes along a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The control plane.
    Control,
    /// A router, with its clients' transactions or by itself.
    Router,
    /// Another server that follows.
    Server,
}

/// What does not come through, of those who are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Everything,
    /// What is asked arrives.
    Answers,
}

type State = Option<(Option<Who>, Lost)>;

/// A way to a server on this machine.
pub(crate) struct Way {
    pub(crate) port: u16,
    state: watch::Sender<State>,
    carrying: JoinHandle<()>,
}

impl Way {
    /// One to this port.
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(None);
        let cut = state.subscribe();
        let carrying = tokio::task::spawn_local(async move {
            // Dropped with this task, and so are the connections.
            let mut carried = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                near.set_nodelay(true).unwrap();
                let cut = cut.clone();
                carried.spawn(async move { drop(carry(near, target, cut).await) });
            }
        });
        Self { port, state, carrying }
    }

    /// Lets nothing of theirs through any more, as a network that drops packets: nobody is told. `None`: of anybody.
    pub(crate) fn cut(&self, who: Option<Who>, lost: Lost) {
        self.state.send_replace(Some((who, lost)));
    }

    /// Lets new connections through again; those that were cut are closed.
    pub(crate) fn heal(&self) {
        self.state.send_replace(None);
    }

    /// Takes it away: connections end, and new ones are refused.
    pub(crate) async fn end(self) {
        self.carrying.abort();
        drop(self.carrying.await);
    }
}

async fn carry(mut near: TcpStream, target: u16, mut cut: watch::Receiver<State>) -> std::io::Result<()> {
    let Some((start, who)) = startup(&mut near).await? else { return Ok(()) };
    let is_cut = move |state: &State| state.is_some_and(|(of, _)| of.is_none_or(|of| of == who));
    if is_cut(&cut.borrow_and_update()) {
        // Nobody hears it.
        drop(cut.wait_for(|state| !is_cut(state)).await);
        return Ok(());
    }
    let mut far = TcpStream::connect(("127.0.0.1", target)).await?;
    far.set_nodelay(true)?;
    far.write_all(&start).await?;
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    // What is cut stays open at both ends until the way is whole again.
    let last = std::sync::Mutex::new(None);
    let lost = |state: &State| {
        let mut last = last.lock().unwrap();
        // Once something is lost, nothing that follows may come through: TCP has no gaps.
        *last = last.or(state.filter(|_| is_cut(state)).map(|(_, lost)| lost));
        *last
    };
    let there = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let length = near_in.read(&mut piece).await?;
            let lost = lost(&cut.borrow());
            match (length, lost) {
                (0, Some(_)) => std::future::pending().await,
                (0, None) => return Ok::<(), std::io::Error>(()),
                (_, Some(Lost::Everything)) => {}
                _ => far_out.write_all(&piece[..length]).await?,
            }
        }
    };
    let back = async {
        let mut piece = vec![0; 1 << 16];
        loop {
            let length = far_in.read(&mut piece).await?;
            let lost = lost(&cut.borrow());
            match (length, lost) {
                (0, Some(_)) => std::future::pending().await,
                (0, None) => return Ok::<(), std::io::Error>(()),
                (_, Some(_)) => {}
                _ => near_out.write_all(&piece[..length]).await?,
            }
        }
    };
    let mut news = cut.clone();
    let healed = async {
        drop(news.wait_for(is_cut).await);
        drop(news.wait_for(|state| !is_cut(state)).await);
    };
    tokio::select! {
        outcome = there => outcome,
        outcome = back => outcome,
        () = healed => Ok(()),
    }
}

/// Reads who it is: the first message of a connection. TLS is not spoken here.
async fn startup(near: &mut TcpStream) -> std::io::Result<Option<(Vec<u8>, Who)>> {
    const TLS: u32 = 80_877_103;
    const GSS: u32 = 80_877_104;
    loop {
        let length = near.read_u32().await?;
        if !(8..=10_000).contains(&length) {
            return Ok(None);
        }
        let mut rest = vec![0; length as usize - 4];
        near.read_exact(&mut rest).await?;
        let code = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]);
        if code == TLS || code == GSS {
            near.write_all(b"N").await?;
            continue;
        }
        let text = String::from_utf8_lossy(&rest[4..]).into_owned();
        let words: Vec<&str> = text.split('\0').collect();
        let value = |key: &str| words.chunks(2).find(|pair| pair[0] == key).map_or("", |pair| pair[1]);
        let (user, database) = (value("user"), value("database"));
        let is_controls = user == "tenantry_control" || user.starts_with("tenantry_read_");
        let who = if is_controls || database.ends_with("__arriving") {
            Who::Control
        } else if user.starts_with("tenantry_move_") || user.starts_with("tenantry_reverse_") {
            Who::Server
        } else {
            Who::Router
        };
        return Ok(Some(([&length.to_be_bytes()[..], &rest].concat(), who)));
    }
}
