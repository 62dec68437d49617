//! An instance's seat at its host: it tells the next one there, of the same name, whose lease is sure to be nobody's.
//!
//! Who leads and dies has the lease until that runs out, as nobody can know that it is dead; except at the same host. The seat is
//! a file in `work_dir` that is locked by whoever leads or wants to, and names the holder. Who finds it unlocked, and written
//! since the host booted, comes after one that leads no more, and takes its lease over at once.
//!
//! It says nothing of what that one had begun at servers: statements whose client is gone go on for a while. And one that dies
//! again and again has to let others lead: see [`DEATHS_MAX`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, Read as _, Result, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

/// So many deaths in a row, each within [`SHORT_LIFE`], and the next one waits for the lease to run out, as any other instance does.
const DEATHS_MAX: u32 = 3;
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// Longest text of a seat, bytes.
const TEXT_MAX: u64 = 4 << 10;

/// A seat that is taken until this is dropped.
pub(crate) struct Seat {
    /// Its lock ends with the process, however that ends. No child inherits it.
    _file: File,
    predecessor: Option<String>,
}

/// What a seat says.
struct Written {
    /// The boot of the host, and the file itself: a copy of it, with its disk or alone, says nothing.
    place: String,
    /// Short lives right before this one.
    deaths: u32,
    holder: String,
}

impl Seat {
    /// Takes the seat of an instance's name for a holder of the lease. `None`: a process that lives has it.
    ///
    /// # Errors
    /// When the file can't be made, read or written, or is none of this program's own.
    pub(crate) fn take(work_dir: &Path, name: &str, holder: &str) -> Result<Option<Self>> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
        let path = work_dir.join(format!("tenantry-{}.seat", name.chars().map(safe).collect::<String>()));
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
        let place = format!("{}:{}:{}", boot.trim(), is.dev(), is.ino());
        let mut text = String::new();
        let is_text = (&file).take(TEXT_MAX).read_to_string(&mut text).is_ok();
        let before = Written::parse(&text).filter(|before| is_text && before.place == place);
        let is_short = is.modified().is_ok_and(|at| lasted(at) < SHORT_LIFE);
        let deaths = before.as_ref().filter(|_| is_short).map_or(0, |before| before.deaths + 1);
        let waits = deaths > DEATHS_MAX;
        file.rewind()?;
        file.set_len(0)?;
        writeln!(file, "{place} {} {holder}", if waits { 0 } else { deaths })?;
        let predecessor = before.filter(|_| !waits).map(|before| before.holder);
        Ok(Some(Self { _file: file, predecessor }))
    }

    /// The holder that had it before, and leads no more.
    pub(crate) fn predecessor(&self) -> Option<&str> {
        self.predecessor.as_deref()
    }
}

impl Written {
    /// Of anything else than the text of a seat, nothing is believed.
    fn parse(text: &str) -> Option<Self> {
        let (place, rest) = text.strip_suffix('\n')?.split_once(' ')?;
        let (deaths, holder) = rest.split_once(' ')?;
        Some(Self { place: place.to_owned(), deaths: deaths.parse().ok()?, holder: holder.to_owned() })
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
        let place = std::env::temp_dir().join(format!("tenantry-seat-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    fn taken(place: &Path, name: &str, holder: &str) -> Seat {
        Seat::take(place, name, holder).unwrap().unwrap()
    }

    #[test]
    fn who_comes_after_a_dead_one_knows_whom_it_comes_after() {
        let place = place("after");
        let first = taken(&place, "control-1", "control-1/a");
        assert_eq!(first.predecessor(), None);
        assert!(Seat::take(&place, "control-1", "control-1/b").unwrap().is_none(), "it is taken");
        assert_eq!(taken(&place, "control-2", "control-2/a").predecessor(), None);
        drop(first);
        let second = taken(&place, "control-1", "control-1/c");
        assert_eq!(second.predecessor(), Some("control-1/a"));
        drop(second);
        assert_eq!(taken(&place, "control-1", "control-1/d").predecessor(), Some("control-1/c"));
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn one_that_dies_again_and_again_lets_others_lead() {
        let place = place("again");
        let known: Vec<bool> =
            (0..9).map(|_| taken(&place, "control-1", "control-1/a").predecessor().is_some()).collect();
        assert_eq!(known, [false, true, true, true, false, true, true, true, false]);
        // A long life in between, and they are counted anew.
        let file = File::options().write(true).open(place.join("tenantry-control-1.seat")).unwrap();
        for _ in 0..9 {
            file.set_modified(SystemTime::now() - 2 * SHORT_LIFE).unwrap();
            assert!(taken(&place, "control-1", "control-1/a").predecessor().is_some());
        }
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_another_boot_another_file_or_another_program_wrote_is_not_believed() {
        let place = place("believed");
        let path = place.join("tenantry-127.0.0.1_7432.seat");
        let take = || taken(&place, "127.0.0.1:7432", "127.0.0.1:7432/b").predecessor().map(str::to_owned);
        for text in ["another-boot:1:2 0 127.0.0.1:7432/a\n", "rubbish", "", "a b c d", "\n"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(take(), None, "{text:?}");
        }
        std::fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(take(), None);
        assert!(take().is_some());
        let copy = place.join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        assert_eq!(take(), None, "a copy");
        std::fs::hard_link(&path, &copy).unwrap();
        assert!(Seat::take(&place, "127.0.0.1:7432", "h").is_err(), "somebody else's, perhaps");
        std::fs::remove_dir_all(place).unwrap();
    }
}
