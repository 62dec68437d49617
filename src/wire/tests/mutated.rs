//! A short run of what the fuzz targets look for: the same checks, on the same seeds, with the same outcome each time.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/checks/mod.rs"]
mod checks;

use std::path::Path;

/// Inputs that are made of each seed.
const MUTANTS: usize = 400;

/// Numbers that look random (xorshift64*), and are the same on each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % end.max(1)
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Changes the input in one place: a byte, a stretch gone or doubled, or a stretch of another seed.
fn mutate(input: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    const BYTES: &[u8] = b"\0\x01\x7f\x80\xff\n ';\"$\\-/*().,&EUu:=aZ09";
    let at = numbers.below(input.len() + 1);
    let end = (at + numbers.below(12)).min(input.len());
    match numbers.below(6) {
        0 => input.insert(at, BYTES[numbers.below(BYTES.len())]),
        1 if at < input.len() => input[at] = BYTES[numbers.below(BYTES.len())],
        2 if at < input.len() => input[at] ^= 1 << numbers.below(8),
        3 => drop(input.drain(at..end)),
        4 => {
            let doubled = input[at..end].to_vec();
            input.splice(at..at, doubled);
        }
        _ => {
            let from = numbers.below(other.len());
            let until = (from + numbers.below(30)).min(other.len());
            input.splice(at..end, other[from..until].iter().copied());
        }
    }
}

fn hold(target: &str, check: fn(&[u8])) {
    let seeds = seeds(target);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for seed in &seeds {
        check(seed);
        for cut in 0..seed.len() {
            check(&seed[..cut]);
        }
        for _ in 0..MUTANTS {
            let mut input = seed.clone();
            for _ in 0..=numbers.below(6) {
                let other = &seeds[numbers.below(seeds.len())];
                mutate(&mut input, other, &mut numbers);
            }
            check(&input);
        }
    }
}

#[test]
fn first_packets() {
    hold("startup", checks::startup);
}

#[test]
fn messages_of_clients() {
    hold("frontend", checks::frontend);
}

#[test]
fn messages_of_servers() {
    hold("backend", checks::backend);
}

#[test]
fn queries() {
    hold("sql", checks::sql);
}

#[test]
fn scram_exchanges() {
    hold("scram", checks::scram);
}
