//! An instance's lock file at its host: it tells the next one there, of the same name, whose lease is sure to be nobody's.
//!
//! Who leads and dies has the lease until that runs out, as nobody can know that it is dead; except at the same host. The file is
//! in `work_dir`, locked by whoever leads or wants to, and names the holder. Who finds it unlocked, and written since the host
//! booted, comes after one that leads no more, and takes its lease over at once.
//!
//! It says nothing of what that one had begun at servers: statements whose client is gone go on for a while. And one that dies
//! again and again has to let others lead: see [`TAKEOVERS_MAX`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, Read as _, Result, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// So many that died within [`SHORT_LIFE`], in a row, are taken over from. After one more, the next waits for the lease to run
/// out, as any other instance does.
const TAKEOVERS_MAX: u32 = 3;
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// Longest text, bytes.
const TEXT_MAX: u64 = 4 << 10;

/// A lock file that is locked until this is dropped.
pub(crate) struct LockFile {
    /// Its lock ends with the process at the latest, however that ends. No child inherits it.
    file: File,
    before: Before,
}

/// What a lock file says of those before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// No one that died.
    Nobody,
    /// This holder, which leads no more.
    Dead(String),
    /// One that died, as others had right before it: the lease is to be waited for.
    TooManyDead,
}

/// The text of a lock file.
struct Written {
    /// The boot of the host, and the file itself: a copy of it, with its disk or alone, says nothing.
    origin: String,
    /// Short lives right before this one.
    deaths: u32,
    holder: String,
}

impl LockFile {
    /// Takes the lock file of an instance's name for a holder of the lease. `None`: another process has it.
    ///
    /// # Errors
    /// When the file can't be made, read or written, or is none of this program's own.
    pub(crate) fn take(work_dir: &Path, name: &str, holder: &str) -> Result<Option<Self>> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
        let path = work_dir.join(format!("tenantry-{}.lock", name.chars().map(safe).collect::<String>()));
        let mut options = OpenOptions::new();
        // A directory that others may write to, such as /tmp: what they have put there is neither followed nor waited for.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()).mode(0o600);
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
        let is = file.metadata()?;
        if !is.is_file() || is.nlink() != 1 || is.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::other(format!("{} is not a file of our own", path.display())));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let origin = format!("{}:{}:{}", boot.trim(), is.dev(), is.ino());
        let mut text = String::new();
        let is_text = (&file).take(TEXT_MAX).read_to_string(&mut text).is_ok();
        let before = Written::parse(&text).filter(|before| is_text && before.origin == origin);
        let is_short = is.modified().is_ok_and(|at| lasted(at) < SHORT_LIFE);
        let deaths = before.as_ref().filter(|_| is_short).map_or(0, |before| before.deaths + 1);
        let before = match before {
            None => Before::Nobody,
            Some(_) if deaths > TAKEOVERS_MAX => Before::TooManyDead,
            Some(before) => Before::Dead(before.holder),
        };
        file.rewind()?;
        file.set_len(0)?;
        writeln!(file, "{origin} {} {holder}", if before == Before::TooManyDead { 0 } else { deaths })?;
        Ok(Some(Self { file, before }))
    }

    /// Who had it before.
    pub(crate) fn before(&self) -> &Before {
        &self.before
    }

    /// Leaves it in order: who comes next has nobody's lease to take over.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn leave(self) -> Result<()> {
        self.file.set_len(0)
    }
}

impl Written {
    /// Of anything else, nothing is believed.
    fn parse(text: &str) -> Option<Self> {
        let (origin, rest) = text.strip_suffix('\n')?.split_once(' ')?;
        let (deaths, holder) = rest.split_once(' ')?;
        Some(Self { origin: origin.to_owned(), deaths: deaths.parse().ok()?, holder: holder.to_owned() })
    }
}

/// For how long it has been so since `at`; no time, if the clock was set back meanwhile.
fn lasted(at: SystemTime) -> Duration {
    at.elapsed().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(test: &str) -> std::path::PathBuf {
        let place = std::env::temp_dir().join(format!("tenantry-lock-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    fn taken(place: &Path, name: &str, holder: &str) -> LockFile {
        LockFile::take(place, name, holder).unwrap().unwrap()
    }

    fn dead(holder: &str) -> Before {
        Before::Dead(holder.to_owned())
    }

    #[test]
    fn who_comes_after_a_dead_one_knows_whom_it_comes_after() {
        let place = place("after");
        let first = taken(&place, "control-1", "control-1/a");
        assert_eq!(first.before, Before::Nobody);
        assert!(LockFile::take(&place, "control-1", "control-1/b").unwrap().is_none(), "it is taken");
        assert_eq!(taken(&place, "control-2", "control-2/a").before, Before::Nobody);
        drop(first);
        let second = taken(&place, "control-1", "control-1/c");
        assert_eq!(second.before, dead("control-1/a"));
        drop(second);
        let third = taken(&place, "control-1", "control-1/d");
        assert_eq!(third.before, dead("control-1/c"));
        third.leave().unwrap();
        assert_eq!(taken(&place, "control-1", "control-1/e").before, Before::Nobody, "it ended in order");
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn one_that_dies_again_and_again_lets_others_lead() {
        let place = place("again");
        let take = || taken(&place, "control-1", "control-1/a").before;
        assert_eq!(take(), Before::Nobody);
        for _ in 0..2 {
            assert_eq!([take(), take(), take()], [(); 3].map(|()| dead("control-1/a")));
            assert_eq!(take(), Before::TooManyDead);
        }
        // A long life in between, and they are counted anew.
        let file = File::options().write(true).open(place.join("tenantry-control-1.lock")).unwrap();
        for _ in 0..9 {
            file.set_modified(SystemTime::now() - 2 * SHORT_LIFE).unwrap();
            assert_eq!(take(), dead("control-1/a"));
        }
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_another_boot_another_file_or_another_program_wrote_is_not_believed() {
        let place = place("believed");
        let path = place.join("tenantry-127.0.0.1_7432.lock");
        let take = || taken(&place, "127.0.0.1:7432", "127.0.0.1:7432/b").before;
        for text in ["rubbish", "", "a b c d", "\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(take(), Before::Nobody, "{text:?}");
        }
        std::fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(take(), Before::Nobody);
        assert_eq!(take(), dead("127.0.0.1:7432/b"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("x{text}")).unwrap();
        assert_eq!(take(), Before::Nobody, "another boot");
        let copy = place.join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        assert_eq!(take(), Before::Nobody, "a copy");
        std::fs::hard_link(&path, &copy).unwrap();
        assert!(LockFile::take(&place, "127.0.0.1:7432", "h").is_err(), "somebody else's, perhaps");
        std::fs::remove_dir_all(place).unwrap();
    }
}
