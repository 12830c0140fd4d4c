//! Create, update, patch, delete: one object, one transaction, one audit line.

mod request;

use std::sync::atomic::Ordering;

use axum::{body::Body, response::Response};
use http::StatusCode;
use leno_config::{Finding, Kind};
use leno_store::{Entry, Expect, StoreError, Write};
use serde_json::{Value, json};

pub(crate) use request::{json_only, propagation, same_uid, texts};

use request::{
    Current, PatchForm, agree, lenient, name_generated, parse_fields, patch_form, read_object,
    read_options, same_object,
};

use crate::{
    AuditLine, AuditObject, Intent,
    changes::Scope,
    handler::Call,
    media, object,
    patch::{self, PatchError},
    plan::{self, Outcome, Planned, Provenance, Written},
    query::{Parameters, Validation},
    read,
    status::{ApiError, json_response},
    store_key, strategic,
    turns::Line,
    warnings,
};

/// How often a write that names no version is tried again when somebody else was faster.
pub(crate) const TRIES: usize = 8;

/// Creates an object.
pub(crate) async fn create(
    call: &Call<'_>,
    kind: Kind,
    namespace: &str,
    body: Body,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&call.parts.uri)?;
    let (mut proposed, notes) = read_object(call, kind, parameters.validation, body).await?;
    name_generated(call, &mut proposed);
    let name = object::meta_text(&proposed, "name").to_owned();
    agree(kind, &mut proposed, namespace, &name)?;
    if !object::meta_text(&proposed, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let mut planned = planned(call, kind, &name, &parameters, proposed, None)?;
    planned.warnings.splice(0..0, notes);
    let target = Target::new(call, kind, namespace, &name);
    let cut_off = target.cut_off(Some(&planned)).await;
    let revision = if parameters.dry_run {
        if target.entry()?.is_some() {
            return Err(ApiError::already_exists(kind, &name));
        }
        None
    } else {
        Some(
            target
                .commit(&planned, None, Expect::Absent)
                .await
                .map_err(|e| target.error(&e))?,
        )
    };
    target.answer(
        planned,
        &cut_off,
        revision,
        &parameters,
        StatusCode::CREATED,
    )
}

/// Replaces an object.
pub(crate) async fn update(
    call: &Call<'_>,
    kind: Kind,
    namespace: &str,
    name: &str,
    body: Body,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&call.parts.uri)?;
    let (mut proposed, notes) = read_object(call, kind, parameters.validation, body).await?;
    agree(kind, &mut proposed, namespace, name)?;
    let target = Target::new(call, kind, namespace, name);
    target
        .change(&parameters, &notes, |_| Ok(proposed.clone()))
        .await
}

/// Changes an object by a patch.
pub(crate) async fn patch(
    call: &Call<'_>,
    kind: Kind,
    namespace: &str,
    name: &str,
    body: Body,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&call.parts.uri)?;
    let form = patch_form(call, kind)?;
    let bytes = call
        .read_body(body, call.server.api.limits.object_bytes)
        .await?;
    let (patch, notes) = parse_fields(kind, parameters.validation, &bytes)
        .map_err(|error| ApiError::bad_request(format!("the patch is no JSON: {error}")))?;
    let target = Target::new(call, kind, namespace, name);
    target
        .change(&parameters, &notes, |current| {
            let mut next = current.clone();
            let applied = match form {
                PatchForm::Json => patch::json(&mut next, &patch),
                PatchForm::Merge => {
                    patch::merge(&mut next, patch.clone());
                    Ok(())
                }
                PatchForm::Strategic => strategic::service(&mut next, patch.clone()),
            };
            applied.map_err(|error| match error {
                PatchError::Malformed(text) => ApiError::bad_request(text),
                PatchError::Unfit(text) => ApiError::invalid(
                    kind,
                    name,
                    &[Finding::new("", format!("the patch does not fit: {text}"))],
                ),
            })?;
            if !next.is_object() {
                return Err(ApiError::bad_request(
                    "the patch makes the object something else",
                ));
            }
            agree(kind, &mut next, namespace, name)?;
            Ok(next)
        })
        .await
}

/// Deletes an object.
pub(crate) async fn delete(
    call: &Call<'_>,
    kind: Kind,
    namespace: &str,
    name: &str,
    body: Body,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&call.parts.uri)?;
    let options = read_options(call, body).await?;
    let dry_run = parameters.dry_run || options.dry_run;
    let target = Target::new(call, kind, namespace, name);
    for _ in 0..TRIES {
        let Some(entry) = target.entry()? else {
            return target.forget(dry_run).await;
        };
        let current = object::stored(&entry)?;
        let uid = object::meta_text(&current, "uid");
        if let Some(expected) = options.uid.as_deref().filter(|expected| *expected != uid) {
            let why = format!(
                "Precondition failed: UID in precondition: {expected}, UID in object meta: {uid}"
            );
            return Err(ApiError::conflict(kind, name, &why));
        }
        if options
            .revision
            .is_some_and(|expected| !target.current(&entry).is(expected))
        {
            return Err(ApiError::modified(kind, name));
        }
        let cut_off = target.cut_off(None).await;
        if !dry_run {
            let write = Write::delete(entry.key.clone(), Expect::Revision(entry.revision));
            match target.store(write, "deleted", Some(&current), None).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(target.error(&error)),
            }
        }
        let mut response = deleted(kind, name, uid);
        warnings::add(&mut response, &cut_off, &[]);
        return Ok(response);
    }
    Err(ApiError::modified(kind, name))
}

fn deleted(kind: Kind, name: &str, uid: &str) -> Response {
    let mut details = json!({"name": name, "kind": kind.plural(), "uid": uid});
    if let (false, Some(details)) = (kind.group().is_empty(), details.as_object_mut()) {
        details.insert("group".into(), kind.group().into());
    }
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    });
    json_response(StatusCode::OK, &status)
}

/// One object that is to be written.
struct Target<'a> {
    call: &'a Call<'a>,
    kind: Kind,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Target<'a> {
    const fn new(call: &'a Call<'a>, kind: Kind, namespace: &'a str, name: &'a str) -> Self {
        Self {
            call,
            kind,
            namespace,
            name,
        }
    }

    fn key(&self) -> leno_store::Key {
        store_key(self.call.mesh, self.kind, self.namespace, self.name)
    }

    fn current(&self, entry: &Entry) -> Current {
        Current {
            stored: entry.revision,
            // The entry may be read before the head: one that is newer is no version of this object yet.
            head: self.call.server.api.store.revision().max(entry.revision),
        }
    }

    fn entry(&self) -> Result<Option<Entry>, ApiError> {
        let store = &self.call.server.api.store;
        store
            .get(&self.key())
            .map_err(|error| ApiError::store(&error))
    }

    /// Deletes what nobody stored, where that can be: a derived service that nobody serves.
    async fn forget(&self, dry_run: bool) -> Result<Response, ApiError> {
        let (kind, name) = (self.kind, self.name);
        let derived = &self.call.server.api.derived;
        let write = derived
            .delete(self.call.mesh, kind, self.namespace, name)
            .ok_or_else(|| ApiError::not_found(kind, name))?
            .map_err(|why| ApiError::conflict(kind, name, &why))?;
        if !dry_run {
            match self.store(write, "deleted", None, None).await {
                Ok(_) => {}
                Err(StoreError::NotFound { .. }) => return Err(ApiError::not_found(kind, name)),
                Err(error) => return Err(self.error(&error)),
            }
        }
        Ok(deleted(kind, name, ""))
    }

    fn error(&self, error: &StoreError) -> ApiError {
        ApiError::store_about(error, self.kind, self.name)
    }

    /// Replaces the object by what `next` makes of it. Without a version of the caller's it is tried again when
    /// somebody else was faster, on what they wrote.
    async fn change(
        &self,
        parameters: &Parameters,
        notes: &[Finding],
        next: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Response, ApiError> {
        let Self { kind, name, .. } = *self;
        for _ in 0..TRIES {
            let entry = self
                .entry()?
                .ok_or_else(|| ApiError::not_found(kind, name))?;
            let old = object::stored(&entry)?;
            let mut current = old.clone();
            object::set_revision(&mut current, entry.revision);
            let proposed = next(&current)?;
            same_object(kind, name, &proposed, &old, &self.current(&entry))?;
            let mut planned = planned(self.call, kind, name, parameters, proposed, Some(&old))?;
            planned.warnings.splice(0..0, notes.iter().cloned());
            let cut_off = self.cut_off(Some(&planned)).await;
            let answer = |planned, revision| {
                self.answer(
                    planned,
                    &cut_off,
                    Some(revision),
                    parameters,
                    StatusCode::OK,
                )
            };
            if planned.outcome == Outcome::Unchanged || parameters.dry_run {
                return answer(planned, entry.revision);
            }
            // A caller's own version was compared above; if it was right, a conflict now finds it wrong next time.
            match self
                .commit(&planned, Some(&old), Expect::Revision(entry.revision))
                .await
            {
                Ok(revision) => return answer(planned, revision),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(self.error(&error)),
            }
        }
        Err(ApiError::modified(kind, name))
    }

    /// Whom the write cuts off.
    async fn cut_off(&self, planned: Option<&Planned>) -> Vec<String> {
        let written = Written {
            kind: self.kind,
            namespace: self.namespace,
            name: self.name,
            planned,
            size: 0,
        };
        let Call { server, mesh, .. } = *self.call;
        plan::cut_off(&server.api, mesh, &mut self.call.line(), vec![written]).await
    }

    async fn commit(
        &self,
        planned: &Planned,
        before: Option<&Value>,
        expect: Expect,
    ) -> Result<u64, StoreError> {
        let (value, verb) = (&planned.value, planned.outcome.as_str());
        let write = Write::put(self.key(), value.to_string().into_bytes(), expect);
        self.store(write, verb, before, Some(value)).await
    }

    async fn store(
        &self,
        write: Write,
        verb: &'static str,
        before: Option<&Value>,
        after: Option<&Value>,
    ) -> Result<u64, StoreError> {
        let change = Change {
            kind: self.kind,
            write,
            verb,
            before: before.cloned(),
            after: after.cloned(),
        };
        store(self.call, &mut self.call.line(), vec![change]).await
    }

    fn answer(
        &self,
        planned: Planned,
        cut_off: &[String],
        revision: Option<u64>,
        parameters: &Parameters,
        code: StatusCode,
    ) -> Result<Response, ApiError> {
        let form = media::form(self.call.headers())?;
        let mut value = planned.value;
        if let Some(revision) = revision {
            object::set_revision(&mut value, revision);
        }
        let scope = Scope {
            mesh: self.call.mesh.clone(),
            kind: self.kind,
            namespace: None,
            name: None,
        };
        read::add_status(
            self.call.server,
            &scope,
            self.namespace,
            self.name,
            &mut value,
        );
        let mut response = read::one(self.call, self.kind, &value, form, parameters, code);
        warnings::add(&mut response, cut_off, &planned.warnings);
        Ok(response)
    }
}

/// A change of one object.
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) write: Write,
    /// `created`, `configured`, `deleted`.
    pub(crate) verb: &'static str,
    /// What is there.
    pub(crate) before: Option<Value>,
    /// What will be.
    pub(crate) after: Option<Value>,
}

/// Stores changes in one transaction, and writes down who made them; the revision of the last.
pub(crate) async fn store(
    call: &Call<'_>,
    line: &mut Line,
    changes: Vec<Change>,
) -> Result<u64, StoreError> {
    let api = &call.server.api;
    let (mut writes, mut lines) = (Vec::new(), Vec::new());
    for change in changes {
        let key = &change.write.key;
        let object = AuditObject {
            kind: change.kind.kind().into(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        };
        lines.push(AuditLine {
            before: change.before,
            after: change.after,
            ..AuditLine::new(call.caller, call.mesh, change.verb, object)
        });
        writes.push(change.write);
    }
    let count = writes.len() as u64;
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line.verb.clone(), line.object.clone()))
        .collect();
    let intent = Intent::new(&api.audit, lines);
    match api.store.commit(writes).await {
        Ok(last) => {
            // All in one piece, however many: whoever is killed now leaves no change without a line.
            intent.stored(last);
            api.counters.changes.fetch_add(count, Ordering::Relaxed);
            for (verb, object) in &told {
                log(call, verb, object, last);
                line.worked(0).await;
            }
            Ok(last)
        }
        Err(error) => {
            intent.forget();
            Err(error)
        }
    }
}

fn log(call: &Call<'_>, verb: &str, object: &AuditObject, revision: u64) {
    tracing::info!(
        target: "leno::audit",
        who = call.caller.name,
        what = verb,
        mesh = %call.mesh,
        kind = object.kind,
        namespace = object.namespace,
        name = object.name,
        revision,
        "changed",
    );
}

fn planned(
    call: &Call<'_>,
    kind: Kind,
    name: &str,
    parameters: &Parameters,
    mut proposed: Value,
    old: Option<&Value>,
) -> Result<Planned, ApiError> {
    let api = &call.server.api;
    let invalid = |findings: Vec<Finding>| {
        if findings.iter().all(Finding::is_unknown_field) {
            return ApiError::unknown_fields(kind, &findings);
        }
        ApiError::invalid(kind, name, &findings)
    };
    let mut notes = Vec::new();
    if lenient(kind, parameters.validation) {
        let gone = leno_config::prune(kind, &mut proposed);
        if parameters.validation == Validation::Warn {
            let note = |field| Finding::new("", format!("unknown field \"{field}\""));
            notes.extend(gone.into_iter().map(note));
        }
    }
    let (value, resource) = plan::admitted(kind, proposed).map_err(invalid)?;
    let mut planned =
        plan::complete(api, call.mesh, kind, value, old, Provenance::HandedOn).map_err(invalid)?;
    plan::warn(api, call.mesh, &[&resource], &mut [&mut planned]);
    planned.warnings.splice(0..0, notes);
    Ok(planned)
}
