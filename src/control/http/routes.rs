//! All resources of `/v1`: one table of what there is, who may, and what goes in and comes out. The router is made of it,
//! and so is the document that describes the API.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::middleware;
use axum::routing::{self, MethodRouter};
use catalog::Role::{self, Admin, Operator, Viewer};

use super::guard::{Gate, guard};
use super::{
    audit, doctor, events, load, map, migrations, move_requests, overview, servers, tenants, tokens, users,
};
use crate::context::Context;

/// What is answered that is no JSON: an event stream.
pub(super) const EVENTS: &str = "Events";

/// One method of one resource.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) rule: Rule,
    pub(super) doc: Doc,
    handler: MethodRouter<Arc<Context>>,
}

/// Who may use a route, and what is on record of it.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// The least role.
    pub(super) needs: Role,
    /// Whether everybody may have it tried, with `dry_run` in the body.
    pub(super) dry_run: bool,
    /// Whether it changes nothing.
    pub(super) reads: bool,
    /// Whether it is on record although it changes nothing.
    pub(super) on_record: bool,
    /// Whether its answer may have a secret.
    pub(super) tells_secret: bool,
    /// What it is about: one of these.
    pub(super) kind: &'static str,
    /// What else it is about: kinds, and the keys of the body that have names of such.
    pub(super) names: &'static [(&'static str, &'static str)],
}

/// What is said of a route.
pub(super) struct Doc {
    pub(super) method: &'static str,
    pub(super) summary: &'static str,
    /// The name of the body's schema.
    pub(super) body: Option<&'static str>,
    /// The names of schemas whose fields may stand in the query.
    pub(super) query: Vec<&'static str>,
    /// The name of the answer's schema.
    pub(super) answer: &'static str,
    /// Whether it answers a list of these.
    pub(super) is_list: bool,
    /// What it is answered with when all is well.
    pub(super) statuses: &'static [u16],
}

type Methods = MethodRouter<Arc<Context>>;

impl Route {
    fn new(
        method: &'static str,
        needs: Role,
        (path, summary): (&'static str, &'static str),
        handler: Methods,
    ) -> Self {
        let kind = path.split('/').nth(1).unwrap_or_default().trim_end_matches('s');
        let rule = Rule {
            needs,
            dry_run: false,
            reads: needs == Viewer,
            on_record: false,
            tells_secret: false,
            kind,
            names: &[],
        };
        let doc = Doc {
            method,
            summary,
            body: None,
            query: Vec::new(),
            answer: "",
            is_list: false,
            statuses: &[200],
        };
        Self { path, rule, doc, handler }
    }

    fn get<H: Handler<T, Arc<Context>>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new("get", Viewer, (path, summary), routing::get(handler))
    }

    fn post<H: Handler<T, Arc<Context>>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new("post", Operator, (path, summary), routing::post(handler))
    }

    fn put<H: Handler<T, Arc<Context>>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new("put", Operator, (path, summary), routing::put(handler))
    }

    fn delete<H: Handler<T, Arc<Context>>, T: 'static>(
        path: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self {
        Self::new("delete", Operator, (path, summary), routing::delete(handler))
    }

    /// It is for this role and those above it.
    fn of(mut self, role: Role) -> Self {
        self.rule.needs = role;
        self
    }

    /// It changes nothing, whatever its method.
    fn reads(mut self) -> Self {
        self.rule.reads = true;
        self
    }

    /// Who looked is on record.
    fn on_record(mut self) -> Self {
        self.rule.on_record = true;
        self
    }

    /// Its answer may have a secret, which nobody is told twice.
    fn tells_secret(mut self) -> Self {
        self.rule.tells_secret = true;
        self
    }

    /// It is about what its body names, too.
    fn names(mut self, names: &'static [(&'static str, &'static str)]) -> Self {
        self.rule.names = names;
        self
    }

    /// Everybody may have it tried, with `dry_run` in the body.
    fn dry_run(mut self) -> Self {
        self.rule.dry_run = true;
        self
    }

    /// What its body is.
    fn takes(mut self, body: &'static str) -> Self {
        self.doc.body = Some(body);
        self
    }

    /// What may stand in its query.
    fn asked(mut self, query: &'static str) -> Self {
        self.doc.query.push(query);
        self
    }

    /// What it answers.
    fn gives(mut self, answer: &'static str) -> Self {
        self.doc.answer = answer;
        self
    }

    /// The same, of which it answers a list.
    fn gives_all(mut self, answer: &'static str) -> Self {
        self.doc.is_list = true;
        self.gives(answer)
    }

    /// With which statuses it answers.
    fn with(mut self, statuses: &'static [u16]) -> Self {
        self.doc.statuses = statuses;
        self
    }
}

/// What there is. Looks are for everybody, changes for operators, unless something else is said.
pub(super) fn table() -> Vec<Route> {
    [access(), of_servers(), of_tenants(), of_migrations(), of_moves(), of_the_map()]
        .into_iter()
        .flatten()
        .collect()
}

fn access() -> Vec<Route> {
    vec![
        Route::get("/whoami", "Whose token this is", tokens::whoami).gives("Whoami"),
        Route::get("/tokens", "All tokens but the configuration's", tokens::list)
            .asked("Page")
            .gives_all("Token"),
        Route::post("/tokens", "Make a token", tokens::create)
            .of(Admin)
            .names(&[("token", "name")])
            .tells_secret()
            .takes("NewToken")
            .gives("Token"),
        Route::delete("/tokens/{name}", "Revoke a token", tokens::revoke).of(Admin).gives("Gone"),
        Route::get("/audit", "Who changed what, the newest first", audit::list)
            .asked("AuditFilter")
            .asked("NumberPage")
            .gives_all("AuditRecord"),
        Route::get("/users", "Logins at the router", users::list).asked("Page").gives_all("User"),
        Route::post("/users", "Make a user", users::create)
            .of(Admin)
            .names(&[("user", "name")])
            .tells_secret()
            .takes("NewUser")
            .gives("User"),
        Route::delete("/users/{name}", "Remove a user", users::remove).of(Admin).gives("Gone"),
        Route::put("/users/{name}/password", "Give a user another password", users::passwd)
            .of(Admin)
            .tells_secret()
            .takes("NewPassword")
            .gives("User"),
    ]
}

fn of_servers() -> Vec<Route> {
    vec![
        Route::get("/servers", "All servers", servers::list).asked("Page").gives_all("Server"),
        Route::post("/servers", "Check and arm a server, and put it on the map", servers::add)
            .of(Admin)
            .names(&[("server", "name")])
            .takes("NewServer")
            .gives("Server"),
        Route::get("/servers/{name}", "A server, and whether it answers", servers::show).gives("Server"),
        Route::delete("/servers/{name}", "Take a server off the map", servers::remove)
            .of(Admin)
            .asked("RemoveServer")
            .gives("RemovedServer"),
        Route::get("/servers/{name}/drain", "How far a server is emptied", servers::drained).gives("Drain"),
        Route::post("/servers/{name}/drain", "Empty a server, or take that back", servers::drain)
            .takes("DrainOrder")
            .gives("Server"),
        // A dry run, too: it logs in at the address that it is given.
        Route::post("/servers/{name}/failover", "Point a server to its promoted standby", servers::failover)
            .of(Admin)
            .takes("FailoverOrder")
            .gives("FailedOver"),
        Route::get(
            "/servers/{name}/upgrade-plan",
            "How a server would be emptied onto newer ones",
            servers::upgrade_plan,
        )
        .gives("UpgradePlan"),
    ]
}

fn of_tenants() -> Vec<Route> {
    const NAMES: &[(&str, &str)] = &[("tenant", "id"), ("server", "server")];
    vec![
        Route::get("/tenants", "Tenants by id", tenants::list)
            .asked("TenantFilter")
            .asked("Page")
            .gives_all("Tenant"),
        Route::post("/tenants", "Make a tenant", tenants::create)
            .dry_run()
            .names(NAMES)
            .takes("NewTenant")
            .gives("Tenant")
            .with(&[200, 201, 202]),
        Route::get("/tenants/{id}", "A tenant, and what is being done with it", tenants::show)
            .gives("Tenant"),
        Route::delete("/tenants/{id}", "Delete a tenant", tenants::delete)
            .asked("DeleteTenant")
            .gives("Started"),
        Route::put("/tenants/{id}/quota", "Set what a tenant may use", tenants::set_quota)
            .takes("NewQuota")
            .gives("Tenant"),
        Route::post("/tenants/{id}/suspend", "Refuse a tenant's clients", tenants::suspend).gives("Started"),
        Route::post("/tenants/{id}/resume", "Let a tenant's clients in again", tenants::resume)
            .gives("Started"),
        Route::post("/tenants/{id}/undelete", "Bring a deleted tenant back", tenants::undelete)
            .gives("Started"),
        Route::post("/tenants/{id}/clone", "Copy a tenant into a new one", tenants::clone)
            .dry_run()
            .names(NAMES)
            .takes("NewTenant")
            .gives("Tenant")
            .with(&[200, 201, 202]),
        Route::post("/tenants/{id}/rename", "Give a tenant another id", tenants::rename)
            .names(&[("tenant", "to")])
            .takes("NewName")
            .gives("Started"),
        Route::get("/tenants/{id}/history", "What was done to a tenant, the newest first", overview::history)
            .gives_all("PastOperation"),
        Route::get("/tenants/{id}/serving", "Whether a tenant's clients are served, and what they do: routers tell that for some seconds after it was asked", overview::serving)
            .gives("Serving"),
        Route::get("/crowds", "Each server's largest and busiest tenants", overview::crowds)
            .gives_all("Crowd"),
        Route::get("/load", "What routers, servers and the busiest tenants have to do just now", load::show)
            .asked("Busiest")
            .gives("Loads"),
        Route::get("/events", "What goes on, as server-sent events", events::listen).gives(EVENTS),
        Route::get("/operations/{id}", "An operation", tenants::operation).gives("Operation"),
    ]
}

fn of_migrations() -> Vec<Route> {
    vec![
        Route::get("/migrations", "Migration runs, the newest first", migrations::list)
            .asked("NumberPage")
            .gives_all("MigrationRun"),
        Route::post("/migrations", "Run migrations over the fleet", migrations::run)
            .takes("NewMigrationRun")
            .gives("MigrationRun"),
        // It tries what it is given, on a copy of a tenant's schema: SQL that a viewer must not have run.
        Route::post("/migrations/plan", "What a run would do", migrations::plan)
            .reads()
            .takes("NewMigrationRun")
            .gives("MigrationPlan"),
        Route::get("/migrations/{id}", "A migration run", migrations::show).gives("MigrationRun"),
        Route::post("/migrations/{id}/resume", "Go on with a run", migrations::resume).gives("MigrationRun"),
        Route::post("/migrations/{id}/abort", "End a run", migrations::abort).gives("MigrationRun"),
    ]
}

fn of_moves() -> Vec<Route> {
    vec![
        Route::get("/moves", "Moves, the newest first", move_requests::list)
            .asked("NumberPage")
            .gives_all("Move"),
        Route::post("/moves", "Move a tenant to another server", move_requests::start)
            .dry_run()
            .names(&[("tenant", "tenant"), ("server", "to")])
            .takes("NewMove")
            .gives("Move"),
        Route::get("/moves/{id}", "A move", move_requests::show).gives("Move"),
        Route::post("/moves/{id}/abort", "Undo a move that is not decided", move_requests::abort)
            .gives("Move"),
        Route::post("/moves/{id}/complete", "Give up the way back", move_requests::complete).gives("Move"),
        Route::post("/moves/{id}/pause", "Let a move wait", move_requests::pause)
            .takes("Pause")
            .gives("Move"),
        Route::post("/moves/{id}/resume", "Let a move go on", move_requests::resume).gives("Move"),
        Route::post("/moves/{id}/reverse", "Turn a move round, without a copy", move_requests::reverse)
            .gives("Move"),
    ]
}

fn of_the_map() -> Vec<Route> {
    vec![
        Route::get("/doctor", "What is wrong, and what to do about it", doctor::examine).gives("Diagnosis"),
        // It has the verifiers of users' passwords.
        Route::get("/map", "The map as a file", map::export).of(Admin).on_record().gives("MapFile"),
        Route::get("/map/check", "What the last look at the map found", map::check).gives("MapCheck"),
        Route::post("/map/verify", "Compare the map with all servers", map::verify)
            .of(Viewer)
            .reads()
            .takes("MapWish")
            .gives_all("MapFinding"),
        // Also to look is for admins only: the files say at which addresses servers are, and the control plane logs in there.
        Route::post("/map/rebuild", "Make the map anew from the servers", map::rebuild)
            .of(Admin)
            .takes("MapWish")
            .gives("MapOutcome"),
        Route::post("/map/import", "Take a map from a file", map::import)
            .of(Admin)
            .takes("MapWish")
            .gives("MapOutcome"),
        Route::post("/map/apply", "Make the fleet as it is declared", map::apply)
            .of(Admin)
            .takes("MapWish")
            .gives("MapOutcome"),
    ]
}

/// The table as a router, each route behind its guard.
pub(super) fn router(context: &Arc<Context>) -> Router<Arc<Context>> {
    table().into_iter().fold(Router::new(), |router, Route { path, rule, handler, .. }| {
        let gate = Gate { context: context.clone(), rule };
        router.route(&format!("/v1{path}"), handler.route_layer(middleware::from_fn_with_state(gate, guard)))
    })
}
