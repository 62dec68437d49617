//! What is where in a fleet's directory, and the secrets in it.
//!
//! Everything that `dev` writes is below this one directory, so that removing it removes the fleet.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;

/// A fleet's directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// What a fleet was last started with, so that it comes back as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) servers: u16,
    pub(crate) router_port: u16,
    pub(crate) api_port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) base_port: u16,
}

impl Layout {
    /// Makes the directory if it is not there.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let refused = |error: std::io::Error| Failure::failed(format!("--dir {}: {error}", dir.display()));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(refused)?;
        let root = dir.canonicalize().map_err(refused)?;
        // Paths go into configuration files and `export` lines, which are text.
        if root.to_str().is_none_or(|text| text.chars().any(char::is_control)) {
            return Err(
                Failure::usage(format!("--dir {}: the path must be plain UTF-8", root.display())).into()
            );
        }
        let layout = Self { root };
        for (name, mode) in [("secrets", 0o700), ("log", 0o755), ("router", 0o700), ("control", 0o700)] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(layout.path(name))
                .with_context(|| format!("making {}", layout.path(name).display()))?;
        }
        Ok(layout)
    }

    /// The directory itself, absolute.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a part logs to.
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.root.join("log").join(format!("{part}.log"))
    }

    /// Where a secret is.
    pub(crate) fn secret_path(&self, name: &str) -> PathBuf {
        self.root.join("secrets").join(name)
    }

    /// A secret: the one that is there, or one made now.
    pub(crate) fn secret(&self, name: &str, make: fn() -> String) -> anyhow::Result<String> {
        let path = self.secret_path(name);
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("reading {}", path.display()))
            }
            _ => {
                let secret = make();
                write_private(&path, &format!("{secret}\n"))?;
                Ok(secret)
            }
        }
    }

    /// The settings of the last start.
    pub(crate) fn settings(&self) -> anyhow::Result<Option<Settings>> {
        let path = self.path("dev.toml");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let read = toml::from_str(&text).map_err(|error| anyhow::anyhow!("{}", error.message()));
                read.map(Some).with_context(|| format!("reading {}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Remembers the settings of this start.
    pub(crate) fn remember(&self, settings: &Settings) -> anyhow::Result<()> {
        let text = format!("# What `tenantry dev` was last started with.\n{}", toml::to_string(settings)?);
        write_private(&self.path("dev.toml"), &text)
    }
}

/// Writes a file that only its owner may read, at once or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("new");
    let write = || {
        // One that a killed process left may have another mode.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// A password of 32 letters and digits, `-` and `_`, which needs no quoting anywhere.
pub(crate) fn random_password() -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())
}

/// A master key.
pub(crate) fn random_key() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>())
}
