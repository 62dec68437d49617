//! The documentation holds together: every link leads somewhere, and every page is in the book.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::harness::trials;

trials! {
    plain every_link_leads_somewhere,
    plain every_page_is_in_the_book,
    plain no_link_leaves_the_book,
}

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
/// Folders with pages.
const FOLDERS: [&str; 3] = ["", "docs", "ops/runbooks"];

fn pages(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(Path::new(PROJECT).join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect()
}

/// A page's text without its blocks of code.
fn prose(page: &Path) -> String {
    let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    text.split("```").step_by(2).collect()
}

/// Where a page's links lead, but for those out of the project.
fn links(page: &Path) -> Vec<String> {
    let text = prose(page);
    let starts = text.match_indices("](").map(|(at, _)| at + 2);
    let targets =
        starts.filter_map(|start| text[start..].split_once(')')).map(|(target, _)| target.to_owned());
    targets.filter(|target| !target.contains("://")).collect()
}

/// What a page's headings are called in links.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| {
        let lower = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        lower.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
    };
    headings.map(name).collect()
}

async fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in FOLDERS.iter().flat_map(|folder| pages(folder)) {
        for link in links(&page) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let is_there = target.exists() && (anchor.is_empty() || anchors(&target).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// mdBook copies nothing from outside of `docs`: such a link is dead in the book. What is there is named by its path.
async fn no_link_leaves_the_book() {
    let mut wrong = Vec::new();
    for page in pages("docs") {
        let leaving = links(&page).into_iter().filter(|link| link.starts_with("../"));
        let text = prose(&page);
        let named = text.split('`').skip(1).step_by(2).filter(|name| name.starts_with("ops/"));
        let named = named.map(|name| name.split(' ').next().unwrap_or_default().to_owned());
        let missing = named.filter(|name| !Path::new(PROJECT).join(name).exists());
        wrong.extend(leaving.chain(missing).map(|name| format!("{}: {name}", page.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn every_page_is_in_the_book() {
    let summary = Path::new(PROJECT).join("docs/SUMMARY.md");
    let listed: BTreeSet<_> = links(&summary).into_iter().collect();
    let there = pages("docs").into_iter().map(|page| page.file_name().unwrap().to_str().unwrap().to_owned());
    let there: BTreeSet<_> = there.filter(|name| name != "SUMMARY.md").collect();
    assert_eq!(listed, there, "docs/SUMMARY.md lists the pages of docs");
}
