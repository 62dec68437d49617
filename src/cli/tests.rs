//! Tests of the command line as a contract.

use clap::{CommandFactory as _, Parser as _};

use super::Cli;

/// Each command of the contract, as a caller would write it.
const CALLS: &[&str] = &[
    "router --config router.toml",
    "control --config control.toml --set listen=127.0.0.1:1",
    "dev --dir d --servers 3 --router-port 1 --api-port 2 --pg-bin b --base-port 3",
    "demo --dir d --tenants 5 -o json",
    "server add pg-1 --url postgres://x --class dedicated --max-connections 5 --label a=b --label c=d",
    "server list -o json --api http://h:1 --token t",
    "server show pg-1",
    "tenant create acme --server pg-1 --label a=b --wait",
    "tenant create acme --class dedicated",
    "tenant list --server pg-1 --selector a=b",
    "tenant show acme -o json",
    "tenant suspend acme --wait",
    "tenant resume acme",
    "tenant delete acme --now --yes --wait",
    "tenant undelete acme --wait",
    "tenant delete acme --dump --yes",
    "tenant clone acme acme-2 --server pg-1 --label a=b --wait",
    "tenant clone acme acme-2 --class dedicated",
    "tenant rename acme acme-inc --wait",
    "user create web --tenants a=b --access readonly --pool-mode session --password-stdin",
    "user list",
    "user passwd web --password-stdin",
    "user drop web --yes",
    "token create ann --role viewer --expires 90d",
    "token create ci --role operator",
    "token list -o json",
    "token revoke ann --yes",
    "token whoami",
    "audit --who ann --since 24h --about acme -n 10 -o json",
    "migrate plan --dir d",
    "migrate run --dir d --selector a=b --canary 1 --waves 1%,10%,100% --per-server 2 --max-failures 3 --lock-timeout 2s",
    "migrate status 3 -o json",
    "migrate status",
    "migrate resume 3",
    "migrate abort 3",
    "move start acme --to pg-3 --wait --max-hold 2s --verify count --reverse-window 24h",
    "move start acme --to pg-3 --dry-run",
    "move list",
    "move show 3 -o json",
    "move abort 3",
    "move reverse 3 --wait",
    "move complete 3 --wait",
    "map export",
    "map export FILE",
    "map import FILE",
    "map apply FILE --dry-run",
    "map verify -o json",
    "map rebuild --apply --file f --snapshot s --config c",
    "psql acme -- -c select",
    "top --once -n 5 --sort waiting -o json",
    "completions bash",
    "man DIR",
];

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn calls_of_the_contract_are_understood() {
    for call in CALLS {
        let args = ["tenantry"].into_iter().chain(call.split(' '));
        Cli::try_parse_from(args).unwrap_or_else(|error| panic!("{call}: {error}"));
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for call in [
        "",
        "tenant",
        "tenant create Acme",
        "tenant resume acme --wait --no-wait",
        "tenant create acme --server a --class shared",
        "user create a --access admin",
        "token create a",
        "token create a --role root",
        "migrate run --dir d --waves 10%",
        "move start acme --to pg-3 --verify some",
        "move show twelve",
        "server add pg-1 --url x --label a",
        "dev --dir d --servers 0",
    ] {
        let args = ["tenantry"].into_iter().chain(call.split_whitespace());
        let error = Cli::try_parse_from(args).expect_err(call);
        assert_eq!(error.exit_code(), 2, "{call}");
    }
}

#[test]
fn each_help_text_has_an_example() {
    fn check(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example"), "{path} --help has no example");
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            check(sub, &format!("{path} {}", sub.get_name()));
        }
    }
    check(&Cli::command(), "tenantry");
}

/// The reference of all commands, as `--help` says it.
fn reference() -> String {
    fn add(command: &clap::Command, text: &mut String) {
        let help =
            command.clone().color(clap::ColorChoice::Never).term_width(100).render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
        command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(|sub| add(sub, text));
    }
    // What the environment of who runs this says is nobody else's.
    fn without_values(command: clap::Command) -> clap::Command {
        command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_values)
    }
    let mut command = without_values(Cli::command());
    command.build();
    let mut text =
        "# Command line\n\nWhat `--help` says of each command; `make docs` writes it.\n".to_owned();
    add(&command, &mut text);
    text
}

#[test]
fn the_reference_is_what_the_commands_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    let reference = reference();
    if std::env::var_os("TENANTRY_WRITE_DOCS").is_some() {
        std::fs::write(path, &reference).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == reference, "docs/cli.md is not what the commands say: make docs");
}
