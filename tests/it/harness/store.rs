//! An S3-compatible object store: a server in this process, with TLS, signed requests and a directory to keep things in.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::Fleet;
use super::fleet::Ports;
use super::lock;
use super::tls::{Authority, Files};

const NO_BUCKET: &str =
    "<Error><Code>NoSuchBucket</Code><Message>The bucket does not exist</Message></Error>";
const KEY: &str = "the-key";
/// What nobody may ever see.
pub(crate) const SECRET: &str = "5ecret-of-the-store";

/// A store. Stops when it is dropped.
pub(crate) struct Store {
    root: PathBuf,
    authority: PathBuf,
    tls: Arc<ServerConfig>,
    ports: Ports,
    cut: Arc<Cut>,
    running: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// What goes wrong on the way to the store.
#[derive(Default)]
struct Cut {
    /// Wanted at the next part.
    at_part: AtomicBool,
    /// Nothing comes through.
    now: AtomicBool,
}

impl Store {
    /// Starts one.
    pub(crate) fn start(fleet: &Fleet) -> Self {
        let files = Files::of(fleet, "store");
        let authority = Authority::new();
        let certificate = authority.issue("store", &["127.0.0.1"]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let store = Self {
            root: fleet.path().join("store"),
            authority: files.write("store-ca.crt", &authority.pem()),
            tls: Arc::new(tls),
            ports: Ports::take().unwrap(),
            cut: Arc::default(),
            running: Mutex::new(None),
        };
        std::fs::create_dir(&store.root).unwrap();
        store.go_on(SECRET);
        store
    }

    /// What a client's environment says of it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("https://127.0.0.1:{}", self.ports.0)),
            ("SSL_CERT_FILE", self.authority.display().to_string()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ]
    }

    /// Makes a bucket.
    pub(crate) fn bucket(&self, name: &str) {
        std::fs::create_dir(self.root.join(name)).unwrap();
    }

    /// The objects of a bucket, as files.
    pub(crate) fn objects(&self, bucket: &str) -> Vec<PathBuf> {
        files(&self.root.join(bucket))
    }

    /// What it keeps of uploads that did not end.
    pub(crate) fn unfinished(&self) -> Vec<PathBuf> {
        let is_part = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(".upload");
        files(&self.root).into_iter().filter(is_part).collect()
    }

    /// Lets connections break as soon as a part is on its way, and all new ones, until it is mended.
    pub(crate) fn cut_at_the_next_part(&self) {
        self.cut.at_part.store(true, SeqCst);
    }

    pub(crate) fn mend(&self) {
        assert!(self.cut.now.swap(false, SeqCst), "nothing was cut");
    }

    /// Stops it, with all that is under way.
    pub(crate) fn stop(&self) {
        if let Some((stop, thread)) = lock(&self.running).take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    /// Starts it again, with this secret for its only key.
    pub(crate) fn go_on(&self, secret: &str) {
        let mut service = S3ServiceBuilder::new(FileSystem::new(&self.root).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, secret));
        let (service, way) = (service.build(), (self.cut.clone(), Arc::new(self.root.clone())));
        let (tls, port) = (TlsAcceptor::from(self.tls.clone()), self.ports.0);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = serve(&listener, &tls, &service, way) => {}
                }
            });
        });
        is_ready.recv().expect("the store to listen");
        *lock(&self.running) = Some((stop, thread));
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    listener: &TcpListener,
    tls: &TlsAcceptor,
    service: &S3Service,
    way: (Arc<Cut>, Arc<PathBuf>),
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (tls, service, way) = (tls.clone(), service.clone(), way.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = service_fn(|request| answer(service.clone(), way.clone(), request));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
        });
    }
}

async fn answer(
    service: S3Service,
    way: (Arc<Cut>, Arc<PathBuf>),
    request: Request<Incoming>,
) -> std::io::Result<Response<s3s::Body>> {
    let (cut, root) = way;
    let is_part = request.uri().query().is_some_and(|query| query.contains("partNumber="));
    if is_part && cut.at_part.swap(false, SeqCst) {
        cut.now.store(true, SeqCst);
    }
    if cut.now.load(SeqCst) {
        return Err(std::io::Error::other("cut"));
    }
    // This one would make a bucket that is not there.
    let bucket = request.uri().path().split('/').nth(1).unwrap_or_default();
    if !root.join(bucket).is_dir() {
        let mut refusal = Response::new(s3s::Body::from(NO_BUCKET.to_owned()));
        *refusal.status_mut() = hyper::StatusCode::NOT_FOUND;
        return Ok(refusal);
    }
    service.call(request.map(s3s::Body::from)).await.map_err(|_| std::io::Error::other("a defect"))
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
