//! The audit log over a restore: what was written down of changes is of the place, not of the backup.
//!
//! Invariant: no mesh of the backup is shown the lines of another that had its name meanwhile.

use std::{fs, io, path::Path};

use leno_api::{Audit as _, AuditLine, AuditObject, AuditOutcome};
use leno_types::MeshName;
use serde_json::json;

use super::{Before, MESHES, RestoreError, Restored, io_error, make_dir, root_of};
use crate::{
    audit::{AUDIT, AuditLog},
    backup::{name_of, sorted},
};

/// Takes the log along, and writes into that of every mesh who restored what.
pub(super) fn keep(
    data_dir: &Path,
    staging: &Path,
    before: &Before,
    restored: &Restored,
) -> Result<(), RestoreError> {
    let (from, to) = (data_dir.join(AUDIT), staging.join(AUDIT));
    let log = AuditLog::new(to.clone());
    if from.is_dir() {
        make_dir(&to)?;
        for path in sorted(&from).map_err(io_error(&from))? {
            let Some(name) = name_of(&path).filter(|_| path.is_dir()) else {
                continue;
            };
            copy(&path, &to.join(&name))?;
            if let Ok(mesh) = name.parse::<MeshName>()
                && !is_same(&mesh, data_dir, staging)
            {
                log.close(&mesh);
            }
        }
    }
    for mesh in &restored.meshes {
        let Ok(mesh) = mesh.parse::<MeshName>() else {
            continue;
        };
        log.open(&mesh);
        log.note(line(mesh.clone(), before.revision, restored));
        if log.counters(&mesh).waiting > 0 {
            let source = io::Error::other("the line of this restore cannot be written");
            return Err(io_error(&to.join(mesh.as_str()))(source));
        }
    }
    Ok(())
}

/// Whether the mesh of this name is in the backup and is the one that was here. Where its root was lost it is taken for
/// it: that is what backups are for.
pub(super) fn is_same(mesh: &MeshName, data_dir: &Path, staging: &Path) -> bool {
    let root = root_of(data_dir, mesh);
    let there = staging.join(MESHES).join(mesh.as_str()).is_dir();
    there && (root.is_empty() || root == root_of(staging, mesh))
}

fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    make_dir(to)?;
    for path in sorted(from).map_err(io_error(from))? {
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            // Keeps its mode, 0600.
            fs::copy(&path, to.join(name)).map_err(io_error(&path))?;
        }
    }
    Ok(())
}

fn line(mesh: MeshName, before: u64, restored: &Restored) -> AuditLine {
    let Restored {
        meshes: _,
        created,
        revision,
        tokens_ended,
        still_revoked,
        joined_again,
        revived,
        people_ended,
        replaced: _,
    } = restored;
    // Of the mesh whose log it is: which others there are is none of its business.
    let revived = revived.iter().any(|name| *name == mesh.as_str());
    AuditLine {
        who: format!("uid {}", rustix::process::geteuid().as_raw()),
        from: "leno restore".into(),
        verb: "restored".into(),
        object: AuditObject {
            kind: "Mesh".into(),
            namespace: String::new(),
            name: mesh.to_string(),
        },
        mesh,
        before: (before > 0).then(|| json!({"revision": before})),
        after: Some(json!({
            "backup": created, "tokensEnded": tokens_ended, "peopleEnded": people_ended,
            "stillRevoked": still_revoked, "joinedAgain": joined_again, "revived": revived,
        })),
        outcome: AuditOutcome::Done(*revision),
    }
}
