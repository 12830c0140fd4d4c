//! Why a control plane does not start, and what to do about it.

use std::{io, net::SocketAddr, path::PathBuf};

use leno_store::StoreError;

/// Why a control plane did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that cannot be.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// The data directory cannot be made or used.
    #[error(
        "the data directory {path:?} cannot be used: give another with --data-dir, or its owner's rights"
    )]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// There are meshes' keys, and no store.
    #[error(
        "the store in {path:?} is gone or empty, and meshes' keys are there: leno restore takes a backup; to begin anew \
         instead, move {path:?} away"
    )]
    StoreLost {
        /// The data directory.
        path: PathBuf,
    },
    /// Something else has the port.
    #[error("{address} is taken{holder}: stop that, or choose another with {option}")]
    PortTaken {
        /// The address.
        address: SocketAddr,
        /// ` by pid 12 (nginx)`, or empty when it cannot be seen.
        holder: String,
        /// What chooses another.
        option: &'static str,
    },
    /// The port cannot be opened for another reason.
    #[error("{address} cannot be listened on: choose another with {option}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What chooses another.
        option: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The admin socket cannot be made.
    #[error("the admin socket {path:?} cannot be made: {reason}")]
    AdminSocket {
        /// The socket.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The CA's files do not fit each other or cannot be read.
    #[error("the certificate authority of mesh {mesh} cannot be used: {reason}")]
    Authority {
        /// The mesh.
        mesh: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The ready file cannot be written.
    #[error("the ready file {path:?} cannot be written")]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A part without which nothing works ended.
    #[error(transparent)]
    Fatal(#[from] leno_runtime::Fatal),
}
