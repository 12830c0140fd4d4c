//! The join tokens of a mesh: one more, which there are, and that one makes no more agents.
//!
//! The secret of a token is in the answer that made it and nowhere else.

use std::time::SystemTime;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
};
use http::StatusCode;
use leno_api::Access;
use leno_store::{Expect, Write};
use leno_types::JoinToken;

use super::{Answer, Context, Problem, Who, may, parse, success};
use crate::{
    authority::random,
    documents::{TokenCreated, TokenInfo, TokenRequest},
    records::Record,
    times::{rfc3339, unix},
    tokens::{MAX_TOKENS, TOKENS, TokenRecord},
};

/// One more token; its text is told here only.
pub(super) async fn create(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<TokenCreated>)> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let request: TokenRequest = parse(body)?;
    let _counting = context.counting.lock().await;
    if context.store.list(&mesh, TOKENS, None)?.0.len() >= MAX_TOKENS {
        let message = format!("there are {MAX_TOKENS} tokens: delete some (leno token delete)");
        return Err(Problem::too_many(message));
    }
    let (secret, id) = (random::<32>(), token_id());
    let now = unix(SystemTime::now());
    let record = TokenRecord::new(&request, id.clone(), &secret, now)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let (addresses, pins) = context
        .on_mesh(mesh.clone(), |mesh, _| {
            (
                mesh.settings.advertise.clone(),
                mesh.authority.bundle().pins(),
            )
        })
        .await?;
    let token = JoinToken {
        id: id.clone(),
        secret,
        mesh: mesh.clone(),
        addresses,
        pins,
        expires: record.expires,
    };
    let answer = TokenCreated {
        token: token.encode(),
        id: id.clone(),
        expires: rfc3339(record.expires),
        scope: record.scope.clone(),
    };
    let change = context
        .change(&who, &mesh, "created", "Token", &id)?
        .after(&record.info(now));
    let write = record.write(TokenRecord::key(&mesh, &id), Expect::Absent);
    context.store(change, vec![write]).await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The tokens that there are, spent and ended ones too.
pub(super) async fn list(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Json<Vec<TokenInfo>>> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let now = unix(SystemTime::now());
    let (entries, _) = context.store.list(&mesh, TOKENS, None)?;
    let records = entries.iter().filter_map(TokenRecord::read);
    Ok(Json(records.map(|record| record.info(now)).collect()))
}

/// Takes a token away; the agents it made stay.
pub(super) async fn delete(
    State(context): State<Context>,
    Path((mesh, id)): Path<(String, String)>,
    who: Who,
) -> Answer<Json<serde_json::Value>> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let key = TokenRecord::key(&mesh, &id);
    let there = context.store.get(&key)?;
    let there = there.and_then(|entry| TokenRecord::read(&entry));
    let now = unix(SystemTime::now());
    let change = context
        .change(&who, &mesh, "deleted", "Token", &id)?
        .before(&there.map(|record| record.info(now)));
    context
        .store(change, vec![Write::delete(key, Expect::Any)])
        .await?;
    Ok(Json(success()))
}

/// Eight characters that can be read out.
fn token_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random::<8>()
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect()
}
