//! Runs the commands of a page of `ops/runbooks`, as an operator does who goes through it from top to bottom.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::cli::{Output, PROGRAM, command, finish};
use super::{Fleet, programs, until};

pub(crate) const RUNBOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/runbooks");

/// Goes before each block: what earlier ones set is there, and whatever fails ends it.
const BEFORE: &str = "set -euo pipefail; if test -e \"$STATE\"; then . \"$STATE\"; fi; set -a\n";
/// Goes after it.
const AFTER: &str = "\nexport -p >\"$STATE\"\n";

/// A page, with a shell's variables.
pub(crate) struct Runbook {
    name: String,
    sections: Vec<(String, Vec<String>)>,
    variables: Vec<(String, String)>,
    home: PathBuf,
    run: RefCell<BTreeSet<usize>>,
}

impl Runbook {
    /// Opens a page in a shell that knows the fleet and these variables, and runs what stands before its first section.
    pub(crate) async fn open(fleet: &Fleet, name: &str, own: &[(&str, &str)]) -> Self {
        let home = fleet.path().join(format!("runbook-{name}"));
        std::fs::create_dir_all(&home).unwrap();
        let folder = |program: &Path| program.parent().unwrap().display().to_string();
        let psql = programs::find("psql");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut variables = fleet.variables().to_vec();
        variables.push(("PATH".into(), format!("{}:{}:{path}", folder(PROGRAM.as_ref()), folder(&psql))));
        variables.push(("STATE".into(), home.join("state").display().to_string()));
        variables.extend(own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let text = std::fs::read_to_string(Path::new(RUNBOOKS).join(format!("{name}.md"))).unwrap();
        let sections = sections(&text);
        let page = Self { name: name.to_owned(), sections, variables, home, run: RefCell::default() };
        page.run("").await;
        page
    }

    /// Gives a variable another value, as an operator does who comes back to a page.
    pub(crate) fn set(&self, variable: &str, value: &str) {
        let mut state = std::fs::OpenOptions::new().append(true).open(self.home.join("state")).unwrap();
        writeln!(state, "export {variable}={value}").unwrap();
    }

    /// Runs the blocks below a heading, up to the next one. Each has to go well.
    pub(crate) async fn run(&self, heading: &str) {
        for block in self.blocks(heading) {
            let output = self.shell(block).await;
            assert_eq!(
                output.status, 0,
                "{}, {heading}:\n{block}\n{}{}",
                self.name, output.stdout, output.stderr
            );
        }
    }

    /// The same, each block again until it goes well: routers report once a second, so what they say may be that old.
    pub(crate) async fn run_until_well(&self, heading: &str) {
        for block in self.blocks(heading) {
            let what = format!("{}, {heading}:\n{block}", self.name);
            until(&what, async || (self.shell(block).await.status == 0).then_some(())).await;
        }
    }

    fn blocks(&self, heading: &str) -> &[String] {
        let found = self.sections.iter().position(|(name, _)| name == heading);
        let section = found.unwrap_or_else(|| panic!("{} has no section {heading}", self.name));
        self.run.borrow_mut().insert(section);
        &self.sections[section].1
    }

    async fn shell(&self, block: &str) -> Output {
        let script = format!("{BEFORE}{block}{AFTER}");
        // A loop in it that waits in vain ends, too.
        let mut shell = command("timeout", &self.variables);
        shell.current_dir(&self.home).args(["120", "bash", "-c", &script]);
        finish(&mut shell, None).await
    }

    /// Fails if a block was left out.
    pub(crate) fn done(self) {
        let run = self.run.into_inner();
        let left = self
            .sections
            .iter()
            .enumerate()
            .filter(|(i, (_, blocks))| !run.contains(i) && !blocks.is_empty());
        let left: Vec<_> = left.map(|(_, (heading, _))| heading).collect();
        assert!(left.is_empty(), "{}: never run: {left:?}", self.name);
    }
}

/// A page's headings, each with the `sh` blocks below it; first what stands before all of them.
pub(crate) fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    let mut fence: Option<(&str, String)> = None;
    for line in text.lines() {
        match (&mut fence, line.strip_prefix("```")) {
            (None, Some(language)) => fence = Some((language, String::new())),
            (Some((language, block)), Some(_)) => {
                if *language == "sh" {
                    sections.last_mut().unwrap().1.push(std::mem::take(block));
                }
                fence = None;
            }
            (Some((_, block)), None) => block.push_str(&format!("{line}\n")),
            (None, None) if line.starts_with("##") => {
                sections.push((line.trim_start_matches('#').trim().to_owned(), Vec::new()));
            }
            (None, None) => {}
        }
    }
    assert!(fence.is_none(), "a block does not end");
    sections
}
