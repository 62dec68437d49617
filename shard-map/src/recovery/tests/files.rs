//! What comes from files: exports, snapshots, declarations.

use super::*;

#[test]
fn an_empty_catalog_is_made_anew_from_servers_and_a_file() {
    let (whole, survey) = sound();
    let file = MapFile::of(&whole);
    let sources = Sources { file: Some(file), ..Sources::default() };
    let (after, left) = rebuilt_with(&CatalogView::default(), &survey, &sources);
    assert_eq!(left, Vec::<&str>::new());
    assert_eq!(
        (&after.servers, &after.tenants, &after.users),
        (&whole.servers, &whole.tenants, &whole.users)
    );
    assert_eq!((after.fleet, after.term), (whole.fleet, 4));
    assert!(after.version > whole.version, "every router must load it anew");
    // An empty catalog has a fleet id of its own, which means nothing.
    let fresh = CatalogView { fleet: Some("g".to_owned()), version: Some(0), ..CatalogView::default() };
    assert!(kinds(&find(&fresh, &survey)).contains(&"missing_tenant"));
    assert_eq!(
        rebuilt_with(&fresh, &survey, &sources),
        rebuilt_with(&CatalogView::default(), &survey, &sources)
    );
    // Without a file: what the servers know, and a word about the rest.
    let declared = Fleet::parse(
        "[[servers]]\nname='s1'\nhost='db'\nport=5401\n[[servers]]\nname='s2'\nhost='db'\nport=5402\n
         [[servers]]\nname='s3'\nhost='db'\nport=5403",
    );
    let sources = Sources { declared: Some(declared.unwrap()), ..Sources::default() };
    let (changes, left, notes) = rebuild(&CatalogView::default(), &survey, &sources);
    assert_eq!((changes.tenants.len(), changes.servers.len(), left.len()), (3, 3, 0));
    assert!(notes.iter().any(|note| note.contains("3 tenants get no labels")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("no users")), "{notes:?}");
}

#[test]
fn a_declaration_names_lost_servers_and_changes_none_that_the_catalog_has() {
    let (mut catalog, survey) = sound();
    catalog.servers.remove("s3");
    let declared = "[[servers]]\nname='s1'\nhost='elsewhere'\nmax_connections=1
        [[servers]]\nname='s3'\nhost='db'\nport=5403";
    let declared = Some(Fleet::parse(declared).unwrap());
    let sources = Sources { declared, ..Sources::default() };
    let (changes, ..) = rebuild(&catalog, &survey, &sources);
    let names: Vec<_> = changes.servers.iter().map(|server| server.server.name.as_str()).collect();
    assert_eq!(names, ["s3"]);
    assert!(sources.servers_as_given(&catalog).iter().any(|server| server.host == "elsewhere"));
}

#[test]
fn the_newer_of_file_and_catalog_counts_for_what_registries_do_not_know() {
    let (catalog, survey) = sound();
    let mut file = MapFile::of(&catalog);
    file.tenants.get_mut("a").unwrap().labels = [].into();
    file.tenants.get_mut("a").unwrap().server = name("s3");
    file.version = 99;
    let with = |file: &MapFile| Sources { file: Some(file.clone()), ..Sources::default() };
    assert_eq!(rebuilt_with(&catalog, &survey, &with(&file)).0, catalog, "the catalog is newer");
    file.version = 101;
    let (after, _) = rebuilt_with(&catalog, &survey, &with(&file));
    assert!(after.tenants["a"].labels.is_empty());
    assert_eq!(after.tenants["a"].server, name("s1"), "never a placement");
    let drop_web = MapFile { users: BTreeMap::new(), ..file };
    let (_, _, notes) = rebuild(&catalog, &survey, &with(&drop_web));
    assert!(notes.iter().any(|note| note.contains("no user web")), "{notes:?}");
}

#[test]
fn a_file_is_read_back_and_an_altered_one_never() {
    let file = MapFile::of(&sound().0);
    let text = file.encode().unwrap();
    assert_eq!(MapFile::decode(text.as_bytes()).unwrap(), file);
    for at in 0..text.len() {
        let mut altered = text.clone().into_bytes();
        altered[at] ^= 1;
        assert!(MapFile::decode(&altered).is_err(), "bit at {at}");
        assert!(MapFile::decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
    }
    let snapshot = crate::snapshot::ShardMap {
        version: 100,
        trail: crate::Trail::default(),
        tenants: file.tenants.clone().into_iter().collect(),
        servers: file.servers.clone().into_iter().collect(),
        users: file.users.clone().into_iter().collect(),
        holds: [].into(),
    };
    assert_eq!(MapFile::decode(&snapshot.encode()).unwrap(), file, "a router's snapshot is one, too");
}

#[test]
fn an_import_is_taken_whole_or_refused() {
    let (catalog, survey) = sound();
    let file = MapFile::of(&catalog);
    assert_eq!(import(&catalog, &survey, &file).unwrap(), Changes::default());
    let mut without = catalog.clone();
    without.tenants.remove("a");
    without.users.clear();
    let changes = import(&without, &survey, &file).unwrap();
    assert_eq!((changes.tenants.len(), changes.users.len()), (1, 1));
    for (change, reason) in [
        (tenant("a", "s1", 2), "would go back"),
        (tenant("a", "s2", 3), "lives on s1"),
        (tenant("d", "s1", 1), "no server has it"),
        (Tenant { state: TenantState::Suspended, ..tenant("a", "s1", 3) }, "the file says suspended"),
    ] {
        let mut file = file.clone();
        file.tenants.insert(change.id.clone(), change);
        let refused = import(&catalog, &survey, &file).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn a_declaration_changes_what_it_names_and_reports_the_rest() {
    let (mut catalog, mut survey) = sound();
    catalog.servers.remove("s3");
    let declared = "[placement]\ntenants_per_server_max = 50
        [[servers]]\nname='s1'\nhost='db'\nport=5401\nclass='dedicated'\nmax_connections=90
        [[servers]]\nname='s3'\nhost='db'\nport=5403
        [[users]]\nname='reports'\naccess='readonly'";
    let (changes, rest) = declare(&catalog, &survey, &Fleet::parse(declared).unwrap()).unwrap();
    assert_eq!((changes.servers.len(), changes.users.len()), (2, 1));
    assert_eq!(changes.policy.as_ref().unwrap().tenants_per_server_max, 50);
    assert!(!changes.users[0].has_password());
    assert_eq!(rest.len(), 2, "{rest:?}");
    let mut after = catalog.clone();
    changes.apply_to(&mut after);
    let again = declare(&after, &survey, &Fleet::parse(declared).unwrap()).unwrap();
    assert_eq!(again.0, Changes::default());
    survey.insert(name("s3"), Seen::Unreachable("password authentication failed".to_owned()));
    let refused = declare(&catalog, &survey, &Fleet::parse(declared).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("server s3: it is not armed"), "{refused}");
}

#[test]
fn users_of_an_old_file_come_back_beside_those_that_there_are() {
    let (catalog, survey) = sound();
    let mut old = MapFile { version: 1, ..MapFile::of(&catalog) };
    let web = User { access: Access::Readonly, ..catalog.users["web"].clone() };
    let lost = User { name: "lost".to_owned(), ..web.clone() };
    old.users = [(web.name.clone(), web), (lost.name.clone(), lost.clone())].into();
    old.tenants.get_mut("a").unwrap().server = name("s3");
    let sources = Sources { users: Some(old), ..Sources::default() };
    let (after, left) = rebuilt_with(&catalog, &survey, &sources);
    assert_eq!((&after.users["lost"], left), (&lost, vec![]));
    assert_eq!((&after.users["web"], &after.tenants), (&catalog.users["web"], &catalog.tenants));
}
