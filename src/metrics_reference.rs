//! The tables of `docs/metrics.md`: what the metrics say of themselves.

use catalog::metrics::Described;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
const HEAD: &str = "| metric | type | labels | |\n| --- | --- | --- | --- |\n";

/// The page, with the table after this line made anew.
fn with_table(page: &str, line: &str, metrics: &[Described]) -> String {
    let (before, after) = page.split_once(line).expect("a place for the table");
    let (_, after) = after.split_once("<!-- end -->").expect("an end of the table");
    let rows: String = metrics.iter().map(row).collect();
    format!("{before}{line}\n\n{HEAD}{rows}\n<!-- end -->{after}")
}

fn row(Described { name, kind, labels, help }: &Described) -> String {
    let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    let space = if labels.is_empty() { "" } else { " " };
    format!("| `{name}` | {kind} |{space}{labels} | {help} |\n")
}

#[test]
fn the_reference_of_metrics_is_what_they_say_of_themselves() {
    let page = std::fs::read_to_string(PATH).unwrap();
    let reference = with_table(&page, "<!-- router: by make docs -->", &router::metrics().unwrap());
    let reference = with_table(&reference, "<!-- control: by make docs -->", &control::metrics().unwrap());
    if std::env::var_os("TENANTRY_WRITE_DOCS").is_some() {
        std::fs::write(PATH, &reference).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(found == reference, "docs/metrics.md is not what the code says: make docs");
}
