//! Certificates made for a test, and a driver that speaks TLS.

use std::path::PathBuf;
use std::sync::Arc;

use catalog::tls::{ALPN, MakeTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::{Client, Config, Error};

use super::Fleet;

/// Who signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
}

impl Authority {
    /// When all that it issues ends, in seconds since 1970: when the year 4096 begins, as rcgen has it.
    pub(crate) const END_S: u64 = 67_090_118_400;

    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these host names, or for a user's name.
    pub(crate) fn issue(&self, common_name: &str, hosts: &[&str]) -> Certificate {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.0).unwrap().pem();
        Certificate { pem, key: key.serialize_pem() }
    }
}

/// The files of one test.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn of(fleet: &Fleet, test: &str) -> Self {
        let path = fleet.path().join(format!("tls-{test}"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let (path, new) = (self.0.join(name), self.0.join("new"));
        std::fs::write(&new, text).unwrap();
        // As a user's own files must be for libpq.
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }

    /// A setting that names a file.
    pub(crate) fn setting(&self, key: &str, name: &str, text: &str) -> String {
        format!("{key}={}", self.write(name, text).display())
    }

    /// The settings for a certificate that a router shows to clients.
    pub(crate) fn shown(&self, certificate: &Certificate) -> [String; 2] {
        [
            self.setting("tls_cert_file", "server.crt", &certificate.pem),
            self.setting("tls_key_file", "server.key", &certificate.key),
        ]
    }
}

/// How a driver speaks TLS.
#[derive(Clone)]
pub(crate) struct Tls(pub(crate) Arc<ClientConfig>);

impl Tls {
    /// Believes an authority; shows a certificate if it has one.
    pub(crate) fn new(authority: &Authority, own: Option<&Certificate>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let certificate = CertificateDer::from_pem_slice(own.pem.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Self(Arc::new(config))
    }

    /// What comes first of a handshake.
    pub(crate) fn hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut hello = Vec::new();
        rustls::ClientConnection::new(self.0.clone(), name).unwrap().write_tls(&mut hello).unwrap();
        hello
    }

    /// The same, which does not say by ALPN what it means to speak.
    pub(crate) fn without_alpn(&self) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols.clear();
        Self(Arc::new(config))
    }

    /// The same for the driver.
    pub(crate) fn connector(&self) -> MakeTls {
        self.0.clone().into()
    }

    /// Connects; the connection ends with the client.
    pub(crate) async fn connect(&self, config: &Config) -> Result<Client, Error> {
        let (client, connection) = config.connect(self.connector()).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}
