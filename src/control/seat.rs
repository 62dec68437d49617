//! An instance's seat at its host: it tells the next one there, of the same name, whose lease is sure to be nobody's.
//!
//! Who leads and dies has the lease until that runs out, as nobody can know that it is dead; except at the same host. The seat is
//! a file in `work_dir` that is locked for as long as its process lives, and names the holder. Who finds it unlocked, and
//! written since the host booted, comes after one that is dead, and takes its lease over at once.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Longest text of a seat, bytes.
const TEXT_MAX: u64 = 4 << 10;

/// A seat that is taken until this is dropped.
pub(crate) struct Seat {
    /// Its lock ends with the process, however that ends. No child inherits it.
    _file: File,
    predecessor: Option<String>,
}

impl Seat {
    /// Takes the seat of an instance's name for a holder of the lease. `None`: a process that lives has it.
    ///
    /// # Errors
    /// When the file can't be made, read or written.
    pub(crate) fn take(work_dir: &Path, name: &str, holder: &str) -> std::io::Result<Option<Self>> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' };
        let path = work_dir.join(format!("tenantry-{}.seat", name.chars().map(safe).collect::<String>()));
        let mut options = OpenOptions::new();
        // A directory that others may write to, such as /tmp: what they have put there is not followed.
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).mode(0o600);
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let mut text = String::new();
        // Of anything else than the text of a seat, nothing is believed.
        let is_text = (&file).take(TEXT_MAX).read_to_string(&mut text).is_ok();
        let written = text.strip_suffix('\n').and_then(|text| text.split_once(' ')).filter(|_| is_text);
        let predecessor = written.filter(|(at, _)| *at == boot.trim()).map(|(_, holder)| holder.to_owned());
        file.rewind()?;
        file.set_len(0)?;
        writeln!(file, "{} {holder}", boot.trim())?;
        Ok(Some(Self { _file: file, predecessor }))
    }

    /// The holder that had it before, and is dead.
    pub(crate) fn predecessor(&self) -> Option<&str> {
        self.predecessor.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(test: &str) -> std::path::PathBuf {
        let place = std::env::temp_dir().join(format!("tenantry-seat-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    #[test]
    fn who_comes_after_a_dead_one_knows_whom_it_comes_after() {
        let place = place("after");
        let first = Seat::take(&place, "control-1", "control-1/a").unwrap().unwrap();
        assert_eq!(first.predecessor(), None);
        assert!(Seat::take(&place, "control-1", "control-1/b").unwrap().is_none(), "it is taken");
        let other = Seat::take(&place, "control-2", "control-2/a").unwrap().unwrap();
        assert_eq!(other.predecessor(), None);
        drop(first);
        let second = Seat::take(&place, "control-1", "control-1/c").unwrap().unwrap();
        assert_eq!(second.predecessor(), Some("control-1/a"));
        drop(second);
        let third = Seat::take(&place, "control-1", "control-1/d").unwrap().unwrap();
        assert_eq!(third.predecessor(), Some("control-1/c"));
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_another_boot_or_another_program_wrote_is_not_believed() {
        let place = place("believed");
        let path = place.join("tenantry-127.0.0.1_7432.seat");
        for text in ["another-boot 127.0.0.1:7432/a\n", "rubbish", "", "a b c", "\n"] {
            std::fs::write(&path, text).unwrap();
            let seat = Seat::take(&place, "127.0.0.1:7432", "127.0.0.1:7432/b").unwrap().unwrap();
            assert_eq!(seat.predecessor(), None, "{text:?}");
        }
        std::fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(Seat::take(&place, "127.0.0.1:7432", "h").unwrap().unwrap().predecessor(), None);
        std::fs::remove_dir_all(place).unwrap();
    }
}
