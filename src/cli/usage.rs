//! Wrong usage, told like any other failure: a line of what is wrong, and one of what to do.

use clap::error::ErrorKind;

use crate::cli::failure::Failure;

/// What a command line can't be understood for; none when it asks for help, or names no command and gets it.
pub(crate) fn failure(error: &clap::Error) -> Option<Failure> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.render().to_string();
    let (mut what, mut hints) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            hints.push(tip.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            hints.push(format!("usage: {usage}"));
        } else if !line.starts_with("For more information") && hints.is_empty() {
            what.push(line);
        }
    }
    let what = match &what[..] {
        [] => "the command line is not understood".to_owned(),
        [first, more @ ..] => format!("{} {}", first.trim_start_matches("error: "), more.join(", ")),
    };
    hints.push("--help tells more".to_owned());
    Some(Failure::usage(what.trim_end()).hint(hints.join("; ")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;
    use crate::cli::failure::describe;

    fn told(line: &str) -> Option<(u8, String)> {
        let error = Cli::try_parse_from(["tenantry"].into_iter().chain(line.split_whitespace())).unwrap_err();
        failure(&error).map(|failure| describe(&failure.into()))
    }

    #[test]
    fn it_is_two_lines_that_say_what_is_wrong_and_what_to_do() {
        let told = |line| told(line).unwrap();
        let (status, text) = told("token create");
        assert_eq!(status, 2);
        assert_eq!(
            text,
            "error: the following required arguments were not provided: --role <ROLE>, <NAME>\n\
             hint: usage: tenantry token create --role <ROLE> <NAME>; --help tells more"
        );
        let (_, text) = told("token create ann --role root");
        let what =
            "error: invalid value 'root' for '--role <ROLE>' [possible values: viewer, operator, admin]\n";
        assert!(text.starts_with(what), "{text}");
        let (_, text) = told("tenant lst");
        assert!(text.contains("hint: a similar subcommand exists: 'list'"), "{text}");
        for line in ["tenant create Acme", "move show twelve", "tenant resume acme --wait --no-wait", "-x"] {
            let (status, text) = told(line);
            let lines: Vec<&str> = text.lines().collect();
            assert!(status == 2 && lines.len() == 2, "{line}: {text}");
            assert!(lines[0].starts_with("error: ") && lines[1].starts_with("hint: "), "{line}: {text}");
        }
    }

    #[test]
    fn help_that_is_asked_for_is_none() {
        for line in ["--help", "--version", "tenant create --help", "tenant"] {
            assert_eq!(told(line), None, "{line}");
        }
    }
}
