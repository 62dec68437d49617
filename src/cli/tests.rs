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
    "completions bash",
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
