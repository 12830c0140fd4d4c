//! `leno user create` and `leno context`: how a person on another machine comes to speak to a mesh.

use std::{io::Read, path::PathBuf};

use base64::Engine;
use clap::{Args, Subcommand};
use leno_controlplane::{Role, documents::UserInfo};
use leno_tls::PrivateKey;
use leno_types::{DnsLabel, HostPort};
use serde_json::{Value, json};

use crate::{
    client::Client,
    context::{self, Context, Credentials, Server},
    exit::{CommandError, Outcome, chain},
    output::{
        Format, items, print, print_document, print_table, print_value, secret_follows, text,
    },
    top::ask,
};

/// People who may speak to the control plane.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Print a context with a certificate of 12 hours, for leno context import on another machine; keep it secret
    ///
    /// Who has one already keeps it; all that somebody has have one role, the last that was given.
    Create {
        /// Who
        name: DnsLabel,
        /// What they may do: everything, or read and watch (default: what they may already; for somebody new, viewer)
        #[arg(long, value_enum)]
        role: Option<RoleArg>,
        /// The mesh (default: that of the context)
        #[arg(long, value_name = "NAME")]
        mesh: Option<DnsLabel>,
    },
    /// Show who has a role in the mesh
    List {
        /// How to print them
        #[arg(long, short, value_enum, default_value = "table")]
        output: Format,
    },
    /// Take somebody's role away: their certificates count no more, and what they have open ends
    Revoke {
        /// Who
        name: DnsLabel,
        /// The mesh (default: that of the context)
        #[arg(long, value_name = "NAME")]
        mesh: Option<DnsLabel>,
    },
}

/// A role, as it is written on a command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleArg {
    Admin,
    Viewer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Admin => Self::Admin,
            RoleArg::Viewer => Self::Viewer,
        }
    }
}

const USERS: &str = "/leno/v1/users";

/// Which meshes commands can speak to.
#[derive(Debug, Args)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: Option<ContextCommand>,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// Show them; the current one has a star
    List,
    /// Make one current
    Use {
        /// Which
        name: String,
    },
    /// Add the one of a file that leno user create made, and make it current; another mesh's is never replaced
    Import {
        /// What to call it here (default: the mesh's name)
        #[arg(long, value_name = "NAME")]
        name: Option<DnsLabel>,
        /// The file; - reads standard input
        #[arg(long = "filename", short = 'f', value_name = "FILE")]
        file: PathBuf,
    },
    /// Remove one
    Delete {
        /// Which
        name: String,
    },
}

/// A context is shorter.
const MAX_CONTEXT: u64 = 256 * 1024;

/// Runs the command.
pub(crate) async fn user(client: &Client, args: &UserArgs) -> Outcome {
    match &args.command {
        UserCommand::Create { name, role, mesh } => {
            create(&of_mesh(client, mesh.as_ref()), name, *role, mesh.as_ref()).await
        }
        UserCommand::List { output } => list(client, *output).await,
        UserCommand::Revoke { name, mesh } => {
            let client = of_mesh(client, mesh.as_ref());
            client.delete(&format!("{USERS}/{name}")).await?;
            print(&format!(
                "{name} has no role in mesh {} any more",
                client.mesh()
            ));
            Ok(0)
        }
    }
}

/// A client of another mesh of the same control plane where one is named, otherwise of the same.
fn of_mesh(client: &Client, mesh: Option<&DnsLabel>) -> Client {
    Client::new(client.context_of(mesh.map_or(client.mesh(), DnsLabel::as_str)))
}

async fn create(
    client: &Client,
    name: &DnsLabel,
    role: Option<RoleArg>,
    mesh: Option<&DnsLabel>,
) -> Outcome {
    let (context, role) = certified(client, name, role.map(Role::from), None).await?;
    secret_follows();
    print_document(&context::export(&context)?);
    match role {
        Role::Admin => say!(
            "{name} is admin of mesh {}: may change everything",
            client.mesh()
        ),
        Role::Viewer => say!(
            "{name} is viewer of mesh {}: may read and watch (--role admin: change everything)",
            client.mesh()
        ),
    }
    say!("on the other machine:  leno context import -f FILE   (it is good for 12 hours)");
    let of = mesh.map_or(String::new(), |mesh| format!(" --mesh {mesh}"));
    say!("take it back:  leno user revoke {name}{of}");
    Ok(0)
}

async fn list(client: &Client, format: Format) -> Outcome {
    if matches!(format, Format::Json | Format::Yaml) {
        print_value(&client.get(USERS).await?, format)?;
        return Ok(0);
    }
    let users: Vec<UserInfo> = ask(client, USERS).await?;
    let row = |user: UserInfo| {
        let role = match user.role {
            Role::Admin => "admin",
            Role::Viewer => "viewer",
        };
        let until = match user.uncertified {
            true => format!(
                "needs a new certificate, after a restore: leno user create {}",
                user.name
            ),
            false => user.not_after,
        };
        vec![user.name, role.into(), user.created, until]
    };
    let rows: Vec<Vec<String>> = users.into_iter().map(row).collect();
    if rows.is_empty() {
        say!("there are none beside whoever runs the control plane: leno user create NAME");
        return Ok(0);
    }
    print_table(&["NAME", "ROLE", "SINCE", "UNTIL"], &rows);
    Ok(0)
}

/// Runs the command.
pub(crate) fn contexts(args: &ContextArgs) -> Outcome {
    match args.command.as_ref().unwrap_or(&ContextCommand::List) {
        ContextCommand::List => {
            let rows: Vec<Vec<String>> = context::list()?
                .into_iter()
                .map(|(name, server, current)| {
                    let star = if current { "*" } else { "" };
                    vec![star.into(), name, server]
                })
                .collect();
            if rows.is_empty() {
                say!("there are none: leno up makes one, leno context import -f FILE adds one");
            } else {
                print_table(&["", "NAME", "SERVER"], &rows);
            }
        }
        ContextCommand::Use { name } => context::make_current(name)?,
        ContextCommand::Delete { name } => {
            let left = context::delete(name)?;
            print(&format!("context \"{name}\" removed"));
            if let Some(left) = left {
                say!("it was the current one, and none is now: leno context use {left}");
            }
        }
        ContextCommand::Import { name, file } => {
            let unreadable = |error: std::io::Error| {
                CommandError::failed(format!("{} cannot be read: {error}", file.display()))
            };
            let mut document = String::new();
            if file.as_os_str() == "-" {
                std::io::stdin()
                    .lock()
                    .take(MAX_CONTEXT)
                    .read_to_string(&mut document)
            } else {
                std::fs::File::open(file)
                    .and_then(|file| file.take(MAX_CONTEXT).read_to_string(&mut document))
            }
            .map_err(unreadable)?;
            let written = context::import(
                &document,
                &file.display().to_string(),
                name.as_ref().map(DnsLabel::as_str),
            )?;
            say!("✔ context \"{written}\" written");
        }
    }
    Ok(0)
}

/// A context of the same mesh for whoever is called so, with a new certificate, over TLS: at `server`, or where the
/// control plane says that it is; and the role that they have, `None` leaving it to the control plane.
pub(crate) async fn certified(
    client: &Client,
    name: &DnsLabel,
    role: Option<Role>,
    server: Option<HostPort>,
) -> Result<(Context, Role), CommandError> {
    let key = PrivateKey::generate();
    let csr = key
        .csr()
        .map_err(|error| CommandError::failed(chain(&error)))?;
    let csr = base64::engine::general_purpose::STANDARD.encode(csr);
    let request = json!({"name": name.as_str(), "csr": csr, "role": role});
    let answer: Value = client.post("/leno/v1/local-user", &request).await?;
    let told = items(&answer, "/addresses")
        .filter_map(Value::as_str)
        .find_map(|address| address.parse().ok());
    let server = server.or(told).ok_or_else(|| {
        CommandError::failed("the control plane knows no address at which others reach it")
            .hint("give it one: leno control-plane --advertise HOST:PORT")
    })?;
    let role = answer.get("role").cloned().unwrap_or_default();
    let role = serde_json::from_value(role).map_err(|error| {
        CommandError::failed(format!(
            "the control plane says no role that is known here: {error}"
        ))
        .hint("compare leno --version here and there")
    })?;
    let context = Context {
        name: client.mesh().to_owned(),
        server: Server::Https {
            host: server.host().to_owned(),
            port: server.port(),
            path: format!("/meshes/{}", client.mesh()),
        },
        namespace: client.namespace().to_owned(),
        credentials: Some(Credentials {
            trust_domain: text(&answer, "/trust_domain").into(),
            bundle: text(&answer, "/trust_bundle").into(),
            certificate: text(&answer, "/chain").into(),
            key: key.to_pem().expose().to_owned(),
        }),
    };
    Ok((context, role))
}
