//! Why something was refused, and the access logs: asked of the proxies that know, over their sessions.
//!
//! Refuses nothing but callers without access to the mesh. Whoever may see the mesh may see every rule that decided; a
//! caller within it is told no more than its header says.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::header;
use leno_api::Access;
use leno_types::{DnsLabel, MeshName};
use leno_wire::agent::{self as wire, ask};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{Answer, Context, Problem, Who, line, may};
use crate::mesh::{Asked, Mesh};

/// How long proxies are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Lines of a list of refusals.
const MAX_LISTED: usize = 200;
/// Lines of one host's log, where nobody says how many.
const LINES: u32 = 200;
/// The shortest beginning of an id that is looked for.
const SHORTEST: usize = 4;
/// How long a log is followed at most.
const LONGEST_FOLLOWED: Duration = Duration::from_secs(3_600);
/// What a log that is followed says when nothing happens: so a reader that is gone is noticed.
const QUIET: Duration = Duration::from_secs(15);

/// What proxies said, and who said nothing.
struct All {
    told: Vec<(DnsLabel, Value)>,
    more: u64,
    asked: usize,
    silent: Vec<DnsLabel>,
    /// What this takes of the memory for answers.
    _room: Vec<OwnedSemaphorePermit>,
}

impl Context {
    async fn ask(
        &self,
        mesh: &MeshName,
        whom: impl FnOnce(&Mesh) -> Vec<(DnsLabel, ask::What)> + Send + 'static,
    ) -> Answer<Asked> {
        let asked = self.on_mesh(mesh.clone(), move |mesh, _| {
            let hosts = whom(mesh);
            mesh.ask(hosts)
        });
        asked.await?.map_err(|error| {
            let code = http::StatusCode::TOO_MANY_REQUESTS;
            Problem::new(code, "TooManyRequests", error.to_string())
        })
    }

    /// Everything that is answered in time.
    async fn ask_all(
        &self,
        mesh: &MeshName,
        whom: impl FnOnce(&Mesh) -> Vec<(DnsLabel, ask::What)> + Send + 'static,
    ) -> Answer<All> {
        let Asked {
            question,
            mut answers,
            asked,
            unasked,
        } = self.ask(mesh, whom).await?;
        let (deadline, mut told, mut more) = (Instant::now() + PATIENCE, Vec::new(), 0);
        let mut room = Vec::new();
        while let Ok(Some(heard)) = timeout_at(deadline, answers.recv()).await {
            more += heard.more;
            room.extend(heard.room);
            let documents = heard.documents.into_iter();
            told.extend(documents.map(|document| (heard.host.clone(), document)));
        }
        let ended = self.on_mesh(mesh.clone(), move |mesh, _| mesh.end_asking(question));
        let mut silent = ended.await?;
        silent.extend(unasked);
        Ok(All {
            told,
            more,
            asked,
            silent,
            _room: room,
        })
    }
}

/// Every proxy, with the same question.
fn everybody(what: ask::What) -> impl FnOnce(&Mesh) -> Vec<(DnsLabel, ask::What)> {
    move |mesh| {
        let hosts = mesh.connected_agents().into_iter();
        hosts.map(|host| (host, what.clone())).collect()
    }
}

/// `GET refusals`: what was refused of late, by who was refused what and why.
pub(super) async fn refusals(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let limit = u32::try_from(MAX_LISTED).unwrap_or(u32::MAX);
    let list = ask::What::Refusals(wire::ListRefusals { limit });
    let all = context.ask_all(&mesh, everybody(list)).await?;
    let mut refusals: Vec<Value> = all
        .told
        .into_iter()
        // What is asked for next, in a command that people copy.
        .filter(|(_, refusal)| refusal["id"].as_str().is_some_and(is_id))
        .map(|(host, mut refusal)| {
            let at = refusal.get("at_ms").and_then(Value::as_u64);
            refusal["at"] = crate::times::rfc3339_millis(at.unwrap_or(0)).into();
            refusal["host"] = host.as_str().into();
            refusal
        })
        .collect();
    refusals.sort_by_key(|of| std::cmp::Reverse(of.get("at_ms").and_then(Value::as_u64)));
    refusals.truncate(MAX_LISTED);
    let refusals = context.on_mesh(mesh, move |mesh, _| {
        refusals.iter_mut().for_each(|of| mesh.name_service(of));
        refusals
    });
    let refusals = refusals.await?;
    let answer = json!({"refusals": refusals, "asked": all.asked, "silent": names(&all.silent)});
    Ok(Json(answer).into_response())
}

/// A refusal's id, or enough of its beginning.
fn is_id(text: &str) -> bool {
    (SHORTEST..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn names(hosts: &[DnsLabel]) -> Vec<&str> {
    hosts.iter().map(DnsLabel::as_str).collect()
}

/// `GET refusals/ID`: everything about one, from each side that knows of it.
pub(super) async fn explain(
    State(context): State<Context>,
    Path((mesh, id)): Path<(String, String)>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let id = id.to_ascii_lowercase();
    if !is_id(&id) {
        return Err(Problem::invalid(format!(
            "a refusal's id is 16 hexadecimal digits, or its first {SHORTEST} or more: the field x-leno-refused says it (id=..), the access log (refusal_id), and the list of refusals"
        )));
    }
    let question = ask::What::Explain(wire::Explain { id: id.clone() });
    let all = context.ask_all(&mesh, everybody(question)).await?;
    if all.told.is_empty() {
        return Err(Problem::not_found(forgotten(&id, &all)));
    }
    let told = all.told;
    let sides = context.on_mesh(mesh, move |mesh, _| {
        let known = |(host, mut side): (DnsLabel, Value)| {
            mesh.add_what_is_known(&host, &mut side);
            side
        };
        told.into_iter().map(known).collect::<Vec<Value>>()
    });
    let mut sides = sides.await?;
    let id_of = |side: &Value| side["id"].as_str().unwrap_or_default().to_owned();
    sides.sort_by_key(|side| (id_of(side), side["direction"] != "outbound"));
    let mut refusals: Vec<(String, Vec<Value>)> = Vec::new();
    for side in sides {
        match refusals.last_mut() {
            Some((id, of)) if *id == id_of(&side) => of.push(side),
            _ => refusals.push((id_of(&side), vec![side])),
        }
    }
    let refusals: Vec<Value> = refusals
        .into_iter()
        .map(|(id, sides)| json!({"id": id, "sides": sides}))
        .collect();
    let answer = json!({"refusals": refusals, "asked": all.asked, "silent": names(&all.silent)});
    Ok(Json(answer).into_response())
}

fn forgotten(id: &str, all: &All) -> String {
    let silent = match names(&all.silent).as_slice() {
        [] => String::new(),
        silent => format!("; did not answer: {}", silent.join(", ")),
    };
    format!(
        "no proxy remembers a refusal {id} ({} asked{silent}): each remembers its latest ones, until it is restarted; the list of refusals has those that there are",
        all.asked
    )
}

#[derive(Deserialize)]
pub(super) struct LogQuery {
    of: String,
    #[serde(default)]
    namespace: String,
    since: Option<String>,
    limit: Option<u32>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    errors: bool,
}

/// `GET logs?of=NAME`: lines of the access logs of a service, a workload or a host, as NDJSON.
pub(super) async fn logs(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let Query(query) = query.map_err(|error| Problem::invalid(error.body_text()))?;
    let since = match &query.since {
        None => Duration::from_secs(600),
        Some(text) => leno_types::parse_duration(text)
            .map_err(|error| Problem::invalid(format!("since: {error}")))?,
    };
    let read = wire::ReadLog {
        since_seconds: u32::try_from(since.as_secs()).unwrap_or(u32::MAX),
        workloads: Vec::new(),
        follow: query.follow,
        errors: query.errors,
        limit: query.limit.unwrap_or(LINES),
    };
    let (name, namespace) = (query.of.clone(), query.namespace.clone());
    let found = context.on_mesh(mesh.clone(), move |mesh, _| {
        mesh.hosts_of(&name, &namespace)
    });
    let found = found.await?;
    if found.is_empty() {
        let shown: String = query.of.chars().take(128).collect();
        return Err(Problem::not_found(format!(
            "\"{shown}\" is no service, workload or host with a proxy in this mesh"
        )));
    }
    let whom = move |_: &Mesh| {
        let ask = |(host, workloads): (DnsLabel, Vec<String>)| {
            let read = wire::ReadLog {
                workloads,
                ..read.clone()
            };
            (host, ask::What::Log(read))
        };
        found.into_iter().map(ask).collect()
    };
    let body = if query.follow {
        follow(context.ask(&mesh, whom).await?)
    } else {
        Body::from(history(context.ask_all(&mesh, whom).await?))
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Lines that were, of all hosts in the order of their time.
fn history(all: All) -> Vec<u8> {
    let mut lines: Vec<Value> = all
        .told
        .into_iter()
        .map(|(host, document)| of_host(&host, document))
        .collect();
    let time = |line: &Value| line["start_time"].as_str().unwrap_or_default().to_owned();
    lines.sort_by_cached_key(time);
    if all.more > 0 {
        lines.push(json!({"more": all.more}));
    }
    for host in &all.silent {
        lines.push(json!({"host": host.as_str(), "silent": true}));
    }
    lines.iter().flat_map(line).collect()
}

fn of_host(host: &DnsLabel, mut document: Value) -> Value {
    document["host"] = host.as_str().into();
    document
}

/// Lines as they come, until the reader goes.
fn follow(asked: Asked) -> Body {
    let until = Instant::now() + LONGEST_FOLLOWED;
    let unasked = asked.unasked.iter();
    let silent = unasked.map(|host| json!({"host": host.as_str(), "silent": true}));
    let first: Vec<u8> = silent.flat_map(|document| line(&document)).collect();
    let lines = futures_util::stream::unfold(
        (Some(first), asked.answers),
        move |(first, mut answers)| async move {
            if let Some(first) = first {
                return Some((Ok::<_, Infallible>(first.into()), (None, answers)));
            }
            let quiet = until.min(Instant::now() + QUIET);
            let text: Vec<u8> = match timeout_at(quiet, answers.recv()).await {
                Ok(None) => return None,
                Ok(Some(heard)) => {
                    let mut lines: Vec<Value> = heard
                        .documents
                        .into_iter()
                        .map(|document| of_host(&heard.host, document))
                        .collect();
                    if heard.more > 0 {
                        lines.push(json!({"host": heard.host.as_str(), "more": heard.more}));
                    }
                    lines.iter().flat_map(line).collect()
                }
                Err(_) if Instant::now() >= until => return None,
                Err(_) => b"\n".to_vec(),
            };
            Some((Ok(bytes::Bytes::from(text)), (None, answers)))
        },
    );
    Body::from_stream(lines)
}

/// How the endpoints that a proxy knows stand, as it sees them.
pub(super) async fn standing(
    context: &Context,
    mesh: MeshName,
    host: DnsLabel,
) -> Answer<Vec<Value>> {
    let list = ask::What::Endpoints(wire::ListEndpoints {
        services: Vec::new(),
    });
    let all = context.ask_all(&mesh, move |_| vec![(host, list)]).await?;
    Ok(all.told.into_iter().map(|(_, document)| document).collect())
}
