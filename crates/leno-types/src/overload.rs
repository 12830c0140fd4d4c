//! How important something is that asks to be carried, and by what an overload shows: two closed sets, the same in
//! decisions, metrics and pages.

macro_rules! closed_set {
    ($(#[$meta:meta])* $name:ident { $(#[doc = $help:literal] $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $help] $variant,)* }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

closed_set! {
    /// How important something is that asks to be carried; the least important first. Whoever calls can lower it and
    /// never raise it: a request's own word (RFC 9218) is heard only where it asks for less.
    Priority {
        /// Callers from outside the mesh, retries that a proxy makes, requests that say `priority: u=5` to `u=7`.
        Low = "low",
        /// Every other request and connection.
        Default = "default",
        /// New connections of members and of the host's own programs: what comes on them is refused before they are.
        High = "high",
    }
}

closed_set! {
    /// By what an overload shows.
    Signal {
        /// Requests open to one port of a program, and waiting for their turn.
        App = "app",
        /// Tasks of the proxy's worker: connections, streams, queries.
        Tasks = "tasks",
        /// How late the worker comes to what is ready to run.
        Lag = "lag",
        /// The proxy's memory, of what it could have.
        Memory = "memory",
    }
}
