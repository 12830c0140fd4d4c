//! What the fuzz targets call (tests/parsers): readers of what clients send that are nobody else's to call.
//! Each takes any bytes, says whether anything could be read out of them, and panics where that is not what must hold of it.

use http::{HeaderMap, HeaderValue, Uri, header};
use serde_json::{Value, json};

use crate::{
    duplicates, media,
    patch::{self, PatchError},
    query::{Continue, Parameters},
    strategic,
    target::Target,
};

/// The header `Accept`: a form, or 406.
pub fn accept(value: &[u8]) -> bool {
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return false;
    };
    let mut headers = HeaderMap::new();
    headers.append(header::ACCEPT, value.clone());
    headers.append(header::CONTENT_TYPE, value);
    if let Ok(media) = media::content_type(&headers) {
        assert!(!media.contains(';'));
    }
    let discovery = media::discovery(&headers);
    media::form(&headers).is_ok() || discovery.is_ok()
}

/// A query: refused, or parameters that hold; a page's token is written back the same.
pub fn query(text: &[u8]) -> bool {
    let Some(uri) = uri("/?", text) else {
        return false;
    };
    let Ok(parameters) = Parameters::parse(&uri) else {
        return false;
    };
    if let Some(token) = parameters.continue_from {
        assert_eq!(Continue::parse(&token.to_text()), Some(token));
    }
    let object = json!({"metadata": {"name": "cart", "namespace": "shop", "labels": {"app": "cart", "tier": ""}}});
    for object in [&object, &Value::Null] {
        let all = parameters.selector.is_everything();
        assert!(parameters.selector.matches(object) || !all);
    }
    true
}

/// A path: something there is, or nothing.
pub fn path(text: &[u8]) -> bool {
    uri("/", text).is_some_and(|uri| Target::parse(uri.path()).is_some())
}

fn uri(start: &str, text: &[u8]) -> Option<Uri> {
    format!("{start}{}", std::str::from_utf8(text).ok()?)
        .parse()
        .ok()
}

/// A patch of the kind that the first byte says, of the object in the first line, by what follows: refused with a
/// reason, or an object that can still be read.
pub fn patch(data: &[u8]) -> bool {
    let Some((kind, rest)) = data.split_first() else {
        return false;
    };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let mut read = || duplicates::parse(parts.next()?).ok();
    let (Some(mut object), Some(patch)) = (read(), read()) else {
        return false;
    };
    let done = match kind % 3 {
        0 => patch::json(&mut object, &patch),
        1 => {
            patch::merge(&mut object, patch.clone());
            // RFC 7396: what was merged once changes nothing more.
            let once = object.clone();
            patch::merge(&mut object, patch);
            assert_eq!(object, once);
            Ok(())
        }
        _ => strategic::service(&mut object, patch),
    };
    match &done {
        Ok(()) => assert_eq!(
            duplicates::parse(object.to_string().as_bytes()).ok(),
            Some(object)
        ),
        Err(PatchError::Malformed(reason) | PatchError::Unfit(reason)) => {
            assert!(!reason.is_empty());
        }
    }
    done.is_ok()
}
