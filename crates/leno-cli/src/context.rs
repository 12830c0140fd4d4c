//! Contexts: which mesh a command speaks to, in the format of a kubeconfig, so that other tools read it as well.
//!
//! On this machine the server is the control plane's socket, written `unix:/PATH:/meshes/MESH`; elsewhere it is
//! `https://HOST:15012/meshes/MESH` with a client certificate.

mod server;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub(crate) use self::server::Server;
use crate::{exit::CommandError, joined::Joined, places};

/// Each try waits for another process that ended in between.
const MAX_LOCK_TRIES: usize = 64;

/// One way to a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) server: Server,
    pub(crate) namespace: String,
    pub(crate) credentials: Option<Credentials>,
}

/// Who speaks: PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The mesh's trust domain: the server's name in TLS.
    pub(crate) trust_domain: String,
    pub(crate) bundle: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(rename = "current-context", default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<Named<ContextEntry>>,
    #[serde(default)]
    clusters: Vec<Named<ClusterEntry>>,
    #[serde(default)]
    users: Vec<Named<UserEntry>>,
}

#[derive(Serialize, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    entry: T,
}

#[derive(Serialize, Deserialize)]
struct ContextEntry {
    context: ContextBody,
}

#[derive(Serialize, Deserialize)]
struct ContextBody {
    cluster: String,
    user: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
}

#[derive(Serialize, Deserialize)]
struct ClusterEntry {
    cluster: ClusterBody,
}

#[derive(Serialize, Deserialize)]
struct ClusterBody {
    server: String,
    #[serde(
        rename = "certificate-authority-data",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    bundle: String,
    #[serde(
        rename = "tls-server-name",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    trust_domain: String,
}

#[derive(Serialize, Deserialize)]
struct UserEntry {
    user: UserBody,
}

#[derive(Default, Serialize, Deserialize)]
struct UserBody {
    #[serde(
        rename = "client-certificate-data",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    certificate: String,
    #[serde(
        rename = "client-key-data",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    key: String,
}

/// The context called `name`, or the current one.
pub(crate) fn load(name: Option<&str>) -> Result<Context, CommandError> {
    let path = places::config_file();
    let file = read(&path)?;
    select(&file, name.unwrap_or(&file.current_context), &path)
}

fn select(file: &File, name: &str, path: &Path) -> Result<Context, CommandError> {
    let known = || {
        file.contexts
            .iter()
            .map(|context| context.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let missing = || match file.contexts.as_slice() {
        [] => unknown(Joined::here().as_ref(), places::roots_agent_is_here()),
        contexts => {
            let names: Vec<&str> = contexts
                .iter()
                .map(|context| context.name.as_str())
                .collect();
            let hint = match leno_config::nearest(name, &names) {
                Some(near) => format!("did you mean \"{near}\"? "),
                None => String::new(),
            };
            if name.is_empty() {
                return CommandError::failed("no context is the current one").hint(format!(
                    "choose one: leno context use NAME, or leno --context NAME; known are: {} (in {})",
                    known(),
                    path.display()
                ));
            }
            CommandError::failed(format!("there is no context \"{name}\"")).hint(format!(
                "{hint}known are: {} (in {})",
                known(),
                path.display()
            ))
        }
    };
    let context = &file
        .contexts
        .iter()
        .find(|context| context.name == name)
        .ok_or_else(missing)?
        .entry
        .context;
    let cluster = file
        .clusters
        .iter()
        .find(|cluster| cluster.name == context.cluster)
        .ok_or_else(missing)?;
    let user = file.users.iter().find(|user| user.name == context.user);
    let server = Server::parse(&cluster.entry.cluster.server);
    let server = server.ok_or_else(|| {
        CommandError::failed(format!(
            "the server of context \"{name}\" is neither https:// nor unix:"
        ))
    })?;
    let credentials = user
        .filter(|user| !user.entry.user.certificate.is_empty())
        .map(|user| {
            let (cluster, user) = (&cluster.entry.cluster, &user.entry.user);
            let (trust_domain, bundle) = (cluster.trust_domain.clone(), decode(&cluster.bundle)?);
            Ok::<_, CommandError>(Credentials {
                trust_domain,
                bundle,
                certificate: decode(&user.certificate)?,
                key: decode(&user.key)?,
            })
        });
    let namespace = if context.namespace.is_empty() {
        "default".into()
    } else {
        context.namespace.clone()
    };
    Ok(Context {
        name: name.into(),
        server,
        namespace,
        credentials: credentials.transpose()?,
    })
}

/// What to say where there is no context at all.
fn unknown(joined: Option<&Joined>, roots_agent: bool) -> CommandError {
    let none = CommandError::unreachable("no mesh is known here");
    match joined {
        None if roots_agent => {
            CommandError::unreachable("this host is in a mesh of root's, of which you have no context").hint(
                "whoever keeps it makes you one:  sudo leno user create NAME > FILE\n  take it here:  leno context import -f FILE\n  may your programs be members:  leno up, join or agent with --allow-user YOU",
            )
        }
        None => none.hint("start one with leno up, or see one with leno demo"),
        Some(joined) => none.hint(format!(
            "{joined}: look at it there, or have a context\n  made for you there:  leno user create NAME > FILE\n  and take it here:    leno context import -f FILE"
        )),
    }
}

/// A context as the text of a file that has no other.
pub(crate) fn export(context: &Context) -> Result<String, CommandError> {
    let mut file = File::default();
    (file.api_version, file.kind) = ("v1".into(), "Config".into());
    put(&mut file, context, true);
    serde_saphyr::to_string(&file)
        .map_err(|error| CommandError::failed(format!("the context cannot be written: {error}")))
}

/// Writes the context of such a text, under `name` if one is given, and makes it current. It takes the place of one for
/// the same mesh; another mesh's way is not lost by it.
pub(crate) fn import(text: &str, from: &str, name: Option<&str>) -> Result<String, CommandError> {
    let mut context = of_text(text, from)?;
    if let Some(name) = name {
        name.clone_into(&mut context.name);
    }
    let mut other = None;
    change(|file| {
        other = server_of(file, &context.name).filter(|old| !old.is_same_place(&context.server));
        if other.is_none() {
            put(file, &context, true);
        }
    })?;
    let name = context.name;
    match other {
        None => Ok(name),
        Some(other) => {
            let what = format!("there is a context \"{name}\" already, of {}", other.text());
            Err(CommandError::refused(what).hint(format!(
                "give this one another name: leno context import --name NAME -f FILE; or remove that: leno context delete {name}"
            )))
        }
    }
}

/// The current context of such a text.
pub(crate) fn of_text(text: &str, from: &str) -> Result<Context, CommandError> {
    let none = |why: &dyn std::fmt::Display| {
        CommandError::refused(format!("{from} is no context: {why}"))
            .hint("leno user create NAME prints one; documents are taken by leno apply -f FILE")
    };
    let file: File = serde_saphyr::from_str(text).map_err(|error| none(&error))?;
    if file.contexts.is_empty() {
        return Err(none(&match file.kind.as_str() {
            "" | "Config" => "none is in it".to_owned(),
            other => format!("it is of kind {other}"),
        }));
    }
    select(&file, &file.current_context, Path::new(from))
}

/// Every context: its name, its server, and whether it is the current one.
pub(crate) fn list() -> Result<Vec<(String, String, bool)>, CommandError> {
    let file = read(&places::config_file())?;
    let one = |context: &Named<ContextEntry>| {
        let name = context.name.clone();
        let server = server_of(&file, &name).map(|server| server.text());
        let current = name == file.current_context;
        (name, server.unwrap_or_default(), current)
    };
    Ok(file.contexts.iter().map(one).collect())
}

/// Makes one of them current.
pub(crate) fn make_current(name: &str) -> Result<(), CommandError> {
    load(Some(name))?;
    change(|file| file.current_context = name.into()).map(drop)
}

/// Removes one; another that is left, where the current one was removed.
pub(crate) fn delete(name: &str) -> Result<Option<String>, CommandError> {
    load(Some(name))?;
    let mut left = None;
    change(|file| {
        take_away(file, name);
        if file.current_context.is_empty() {
            left = file.contexts.first().map(|context| context.name.clone());
        }
    })?;
    Ok(left)
}

/// Writes a context, in place of one of the same name; `make_current` also where another is.
pub(crate) fn save(context: &Context, make_current: bool) -> Result<PathBuf, CommandError> {
    change(|file| put(file, context, make_current))
}

fn put(file: &mut File, context: &Context, make_current: bool) {
    forget(file, &context.name);
    let name = || context.name.clone();
    let credentials = context.credentials.as_ref();
    let user = credentials.map(|of| UserBody {
        certificate: encode(&of.certificate),
        key: encode(&of.key),
    });
    let body = ContextBody {
        cluster: name(),
        user: name(),
        namespace: context.namespace.clone(),
    };
    let bundle = credentials.map(|of| encode(&of.bundle)).unwrap_or_default();
    let trust_domain = credentials
        .map(|of| of.trust_domain.clone())
        .unwrap_or_default();
    let cluster = ClusterBody {
        server: context.server.text(),
        bundle,
        trust_domain,
    };
    file.contexts.push(Named {
        name: name(),
        entry: ContextEntry { context: body },
    });
    file.clusters.push(Named {
        name: name(),
        entry: ClusterEntry { cluster },
    });
    file.users.push(Named {
        name: name(),
        entry: UserEntry {
            user: user.unwrap_or_default(),
        },
    });
    if make_current || file.current_context.is_empty() {
        file.current_context = name();
    }
}

/// Writes a context under the first of these names that is free, or whose server `is_debris`; `None` when none is.
/// No two processes get the same.
pub(crate) fn claim(
    names: &[String],
    new: impl Fn(&str) -> Context,
    is_debris: impl Fn(&Server) -> bool,
) -> Result<Option<Context>, CommandError> {
    let mut claimed = None;
    change(|file| {
        let free = names.iter().find(|name| {
            let known = file.contexts.iter().any(|context| context.name == **name);
            !known || server_of(file, name).is_some_and(|server| is_debris(&server))
        });
        if let Some(name) = free {
            let context = new(name);
            put(file, &context, false);
            claimed = Some(context);
        }
    })?;
    Ok(claimed)
}

/// Removes a context if its server is this socket.
pub(crate) fn release(name: &str, at: &Path) -> Result<(), CommandError> {
    if !places::config_file().exists() {
        return Ok(());
    }
    change(|file| {
        let ours =
            matches!(server_of(file, name), Some(Server::Unix { socket, .. }) if socket == at);
        if ours {
            take_away(file, name);
        }
    })?;
    Ok(())
}

/// Removes every context of this server.
pub(crate) fn release_server(at: &Server) -> Result<(), CommandError> {
    if !places::config_file().exists() {
        return Ok(());
    }
    change(|file| {
        let names: Vec<String> = file.contexts.iter().map(|of| of.name.clone()).collect();
        for name in names {
            if server_of(file, &name).is_some_and(|server| server == *at) {
                take_away(file, &name);
            }
        }
    })?;
    Ok(())
}

/// Removes every context whose server is this socket; their names.
pub(crate) fn release_socket(at: &Path) -> Result<Vec<String>, CommandError> {
    let mut removed = Vec::new();
    if !places::config_file().exists() {
        return Ok(removed);
    }
    change(|file| {
        let names: Vec<String> = file.contexts.iter().map(|of| of.name.clone()).collect();
        for name in names {
            if matches!(server_of(file, &name), Some(Server::Unix { socket, .. }) if socket == at) {
                take_away(file, &name);
                removed.push(name);
            }
        }
    })?;
    Ok(removed)
}

fn server_of(file: &File, name: &str) -> Option<Server> {
    let context = file.contexts.iter().find(|of| of.name == name)?;
    let cluster = &context.entry.context.cluster;
    let cluster = file.clusters.iter().find(|of| of.name == *cluster)?;
    Server::parse(&cluster.entry.cluster.server)
}

/// Removes a context. If it was the current one none is: no command is to go to another mesh unasked. A file without
/// any context is removed.
fn take_away(file: &mut File, name: &str) {
    forget(file, name);
    if file.current_context == name {
        file.current_context.clear();
    }
}

fn forget(file: &mut File, name: &str) {
    file.contexts.retain(|of| of.name != name);
    file.clusters.retain(|of| of.name != name);
    file.users.retain(|of| of.name != name);
}

fn change(edit: impl FnOnce(&mut File)) -> Result<PathBuf, CommandError> {
    let path = places::config_file();
    let failed = |error: io::Error| {
        CommandError::failed(format!("{} cannot be written: {error}", path.display()))
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    let lock = lock(dir, &path.with_extension("lock")).map_err(failed)?;
    let mut file = read(&path)?;
    (file.api_version, file.kind) = ("v1".into(), "Config".into());
    edit(&mut file);
    if file.contexts.is_empty() {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        // The lock goes too: nothing is left behind.
        drop(fs::remove_file(path.with_extension("lock")));
        drop(fs::remove_dir(dir));
        return Ok(path);
    }
    let text = serde_saphyr::to_string(&file)
        .map_err(|error| CommandError::failed(format!("the context cannot be written: {error}")))?;
    let temporary = path.with_extension("new");
    let mut out = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    out.write_all(text.as_bytes()).map_err(failed)?;
    fs::rename(&temporary, &path).map_err(failed)?;
    drop(lock);
    Ok(path)
}

/// Two demos may start or end at the same moment. The lock's file goes with the last context, so that what was
/// locked must still be what others will find.
fn lock(dir: &Path, path: &Path) -> io::Result<fs::File> {
    for _ in 0..MAX_LOCK_TRIES {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path);
        let lock = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        lock.lock()?;
        let locked = lock.metadata()?;
        if fs::metadata(path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev(), locked.ino()))
        {
            return Ok(lock);
        }
    }
    Err(io::Error::other("its lock keeps changing"))
}

fn read(path: &Path) -> Result<File, CommandError> {
    match fs::read_to_string(path) {
        Ok(text) => serde_saphyr::from_str(&text).map_err(|error| {
            CommandError::failed(format!("{} cannot be read: {error}", path.display()))
                .hint("mend it, or remove it and start again")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(File::default()),
        Err(error) => {
            let what = format!("{} cannot be read: {error}", path.display());
            Err(if error.kind() == io::ErrorKind::PermissionDenied {
                CommandError::permission(what).hint(
                    "it is another user's: HOME, XDG_CONFIG_HOME or LENO_CONFIG says where yours is",
                )
            } else {
                CommandError::failed(what)
            })
        }
    }
}

fn encode(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn decode(text: &str) -> Result<String, CommandError> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| {
        CommandError::failed("a certificate of the context is damaged")
            .hint("log in again, or start leno up again")
    })
}
