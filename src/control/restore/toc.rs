//! Whose each entry of an archive is, by its table of contents: `pg_restore --list` prints a line for each, in the order in which
//! they are restored.
//!
//! Names in it are whatever a tenant likes, blanks included. So nothing is told by what stands behind the first name: kinds by
//! the number of the catalog that an entry is of, which Postgres never changes, and owners by the line's end.

use std::collections::HashSet;

use shard_map::{Access, TenantId};

/// Catalogs whose entries only a superuser can restore, or that have no owner: schemas, extensions, operator classes and
/// families, languages, access methods, foreign data wrappers, foreign servers and who is who there, event triggers, default
/// rights, casts, transforms, text search parsers and templates, subscriptions, schemas in publications. Of these Postgres works
/// nothing out when they are made; a schema's are its rights alone.
const OF_A_SUPERUSER: [u32; 17] = [
    2615,
    3079,
    2616,
    2753,
    2612,
    2601,
    2328,
    1417,
    1418,
    EVENT_TRIGGERS,
    DEFAULT_RIGHTS,
    2605,
    3576,
    3601,
    3764,
    6100,
    6237,
];
const EVENT_TRIGGERS: u32 = 3466;
const DEFAULT_RIGHTS: u32 = 826;
/// What entries of no catalog are that say something of another one. Nothing is worked out for these, and they go last: also whose
/// column a sequence is of, since Postgres wants both to have one owner by then.
const REMARKS: [&str; 4] = ["ACL ", "COMMENT ", "SECURITY LABEL ", "SEQUENCE OWNED BY "];
/// Types that are not made yet, which only a superuser makes.
const SHELL_TYPE: &str = "SHELL TYPE ";
/// Rights in schemas: what is restored next may need them, and nothing else takes them away.
const SCHEMA_RIGHTS: &str = "ACL - SCHEMA ";

/// What is known of the entries beside what their lines say.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// The tenant's roles.
    pub(super) roles: Vec<(Access, String)>,
    /// Entries of the tenant's roles that an operator had to do with, by catalog and number.
    pub(super) operators: HashSet<(u32, u32)>,
    /// The same, by the beginnings of their lines without any numbers.
    pub(super) operators_lines: Vec<String>,
}

/// Entries that follow each other, by whom they are restored: the tenant's role that owns them, or none for a superuser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) whose: Option<Access>,
    pub(super) list: String,
}

impl Rules {
    pub(super) fn of(tenant: &TenantId) -> Self {
        let roles = Access::ALL.map(|access| (access, access.role(tenant))).into();
        Self { roles, ..Self::default() }
    }

    fn owner(&self, line: &str) -> Option<Access> {
        let owns = |role: &String| line.strip_suffix(role.as_str()).is_some_and(|rest| rest.ends_with(' '));
        self.roles.iter().find(|(_, role)| owns(role)).map(|(access, _)| *access)
    }
}

/// Cuts a table of contents. What a move keeps in its source is left out.
pub(super) fn parts(list: &str, rules: &Rules) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut last = String::new();
    for line in list.lines() {
        let Some((catalog, number, what)) = entry(line) else { continue };
        if is_a_moves(what) {
            continue;
        }
        let owner = rules.owner(what);
        let is_remark = catalog == 0 && REMARKS.iter().any(|remark| what.starts_with(remark));
        let is_late = is_remark && owner.is_some() && !what.starts_with(SCHEMA_RIGHTS);
        if is_late || matches!(catalog, EVENT_TRIGGERS | DEFAULT_RIGHTS) {
            last += &format!("{line}\n");
            continue;
        }
        let is_operators = is_remark
            || OF_A_SUPERUSER.contains(&catalog)
            || (catalog == 0 && what.starts_with(SHELL_TYPE))
            || rules.operators.contains(&(catalog, number))
            || (catalog == 0 && rules.operators_lines.iter().any(|begin| what.starts_with(begin)));
        let whose = if is_operators { None } else { owner };
        match parts.last_mut() {
            Some(part) if part.whose == whose => part.list += &format!("{line}\n"),
            _ => parts.push(Part { whose, list: format!("{line}\n") }),
        }
    }
    if !last.is_empty() {
        parts.push(Part { whose: None, list: last });
    }
    parts
}

/// `12; 1259 16400 TABLE public t acme__owner`: catalog, number, and the rest.
fn entry(line: &str) -> Option<(u32, u32, &str)> {
    let (_, rest) = line.split_once("; ")?;
    let (catalog, rest) = rest.split_once(' ')?;
    let (number, rest) = rest.split_once(' ')?;
    Some((catalog.parse().ok()?, number.parse().ok()?, rest))
}

/// What a move itself put into the source's schema: a copy needs no guard.
fn is_a_moves(what: &str) -> bool {
    [
        "EVENT TRIGGER - tenantry_guard_",
        "EVENT TRIGGER - tenantry_window_",
        "PUBLICATION - tenantry_move_",
        "PUBLICATION - tenantry_reverse_",
    ]
    .iter()
    .any(|own| what.starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(list: &str) -> Vec<(Option<Access>, Vec<String>)> {
        let mut rules = Rules::of(&TenantId::new("acme").unwrap());
        rules.operators.insert((2620, 77));
        rules.operators_lines.push("TABLE ATTACH public mixed ".to_owned());
        let names =
            |part: Part| part.list.lines().map(|line| line.split_once(';').unwrap().0.to_owned()).collect();
        parts(list, &rules).into_iter().map(|part| (part.whose, names(part))).collect()
    }

    #[test]
    fn each_owner_makes_its_own_and_a_superuser_the_rest() {
        let list = "; archive\n1; 2615 2200 SCHEMA - public acme__owner\n2; 0 0 ACL - SCHEMA public acme__owner\n\
            3; 3079 5 EXTENSION - citext \n4; 1259 6 TABLE public t acme__owner\n5; 0 0 COMMENT public TABLE t acme__owner\n\
            6; 0 0 ACL public TABLE t acme__owner\n7; 1259 8 TABLE public a acme__app\n8; 1259 9 TABLE public o postgres\n\
            9; 0 0 ACL public TABLE o postgres\n10; 0 0 TABLE ATTACH public p acme__owner\n\
            11; 0 0 SEQUENCE OWNED BY public t_id_seq acme__owner\n";
        let (owner, app) = (Some(Access::Owner), Some(Access::App));
        let found = cut(list);
        let expected: [(Option<Access>, &[&str]); 6] = [
            (None, &["1", "2", "3"]),
            (owner, &["4"]),
            (app, &["7"]),
            (None, &["8", "9"]),
            (owner, &["10"]),
            (None, &["5", "6", "11"]),
        ];
        assert_eq!(
            found,
            expected.map(|(whose, names)| (whose, names.iter().map(|n| (*n).to_owned()).collect()))
        );
    }

    #[test]
    fn no_name_makes_an_entry_what_it_is_not() {
        // A default of a table in a schema that is called ACL, and an index in one that is called ATTACH.
        let list = "1; 2604 5 DEFAULT ACL t n acme__owner\n2; 1259 6 INDEX ATTACH i acme__owner\n\
            3; 1255 7 FUNCTION public f(SHELL TYPE acme__app, x) acme__owner\n4; 1259 8 TABLE public acme__app postgres\n\
            5; 2605 9 CAST - CAST (acme__owner AS acme__owner) \n6; 1259 10 TABLE COMMENT t acme__owner\n";
        assert_eq!(
            cut(list),
            [
                (Some(Access::Owner), vec!["1".to_owned(), "2".to_owned(), "3".to_owned()]),
                (None, vec!["4".to_owned(), "5".to_owned()]),
                (Some(Access::Owner), vec!["6".to_owned()]),
            ]
        );
    }

    #[test]
    fn what_an_operator_had_to_do_with_is_the_superusers() {
        let list = "1; 2620 77 TRIGGER public t audit acme__owner\n2; 0 0 TABLE ATTACH public mixed acme__owner\n\
            3; 2620 78 TRIGGER public t mine acme__owner\n";
        let expected =
            [(None, vec!["1".to_owned(), "2".to_owned()]), (Some(Access::Owner), vec!["3".to_owned()])];
        assert_eq!(cut(list), expected);
    }

    #[test]
    fn what_a_move_keeps_in_its_source_is_left_out() {
        let list = "13; 3466 5 EVENT TRIGGER - tenantry_guard_end tenantry_control\n\
            14; 6104 6 PUBLICATION - tenantry_move_7 x\n15; 6104 7 PUBLICATION - mine acme__owner\n";
        assert_eq!(cut(list), [(Some(Access::Owner), vec!["15".to_owned()])]);
    }
}
