//! `leno top`: who calls whom and how it goes, live.

use std::time::Duration;

use clap::Args;
use leno_controlplane::documents::{EdgeList, Proxy};
use leno_runtime::Signals;
use serde::de::DeserializeOwned;

use crate::{
    client::{Client, understood},
    commands::path_of,
    exit::{CommandError, Outcome},
    output::{Shape, items, print, print_document, text},
    processes,
    view::{self, Key, Page, Row, Screen},
};

/// Between two pictures.
const EVERY: Duration = Duration::from_secs(1);

/// Show who calls whom and how it goes; live on a terminal, otherwise once.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Only what a service calls and who calls it
    service: Option<String>,
    /// Print it once and end
    #[arg(long)]
    once: bool,
    /// How to print it; json and yaml are one document, or one a second with --watch
    #[arg(long, short, value_enum, default_value = "table")]
    output: Shape,
    /// The time that the numbers are of: 1s to 10m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = processes::duration)]
    window: Duration,
    /// Print again every second, also where standard output is no terminal
    #[arg(long, short, conflicts_with = "once")]
    watch: bool,
}

/// Shows it.
pub(crate) async fn top(client: &Client, args: &TopArgs) -> Outcome {
    let live = !args.once && args.output == Shape::Table;
    let failed = |error| CommandError::failed(format!("the terminal cannot be used: {error}"));
    let screen = if live {
        Screen::open().map_err(failed)?
    } else {
        None
    };
    let mut signals = Signals::new().map_err(failed)?;
    if let Some(service) = &args.service {
        known(client, service).await?;
    }
    if let Some(screen) = screen {
        return on_screen(client, args, screen, &mut signals).await;
    }
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = signals.next_end() => return Ok(0),
        }
        print_once(client, args).await?;
        if !args.watch {
            return Ok(0);
        }
    }
}

async fn print_once(client: &Client, args: &TopArgs) -> Result<(), CommandError> {
    let mut window: EdgeList = ask(client, &window_path(args.window)).await?;
    if args.output == Shape::Table {
        let rows = of_service(view::rows(&[], &EdgeList::default(), &window), args);
        if rows.is_empty() {
            print(&quiet(args));
        } else {
            print_document(&view::table(&rows, view::width()));
            if rows.iter().any(|row| !row.reason.is_empty()) {
                say!("leno explain says why, and what to do");
            }
        }
        return Ok(());
    }
    if let Some(service) = &args.service {
        window.edges.retain(|edge| view::is_of(edge, service));
    }
    if args.output == Shape::Yaml {
        let text = serde_saphyr::to_string(&window).map_err(CommandError::failed)?;
        // Documents that follow each other are told apart (YAML 1.2, 9.2).
        print_document(&format!("---\n{text}"));
        return Ok(());
    }
    let text = if args.watch {
        serde_json::to_string(&window)
    } else {
        serde_json::to_string_pretty(&window)
    };
    print_document(&text.map_err(CommandError::failed)?);
    Ok(())
}

async fn on_screen(
    client: &Client,
    args: &TopArgs,
    mut screen: Screen,
    signals: &mut Signals,
) -> Outcome {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = signals.next_end() => return Ok(0),
            Key::Quit = screen.key() => return Ok(0),
        }
        let mut page = picture(client, args.window).await?;
        page.rows = of_service(page.rows, args);
        if page.rows.is_empty() {
            page.notes = vec![quiet(args)];
        }
        page.title = format!(
            "mesh {}   last {} s",
            client.mesh(),
            args.window.as_secs().max(1)
        );
        let refused = page.rows.iter().any(|row| !row.reason.is_empty());
        page.footer = match refused {
            true => "q or Ctrl-C ends this   leno explain says why calls fail".into(),
            false => "q or Ctrl-C ends this".into(),
        };
        let drawn = screen.draw(|frame| view::draw(frame, &page));
        drawn.map_err(|error| {
            CommandError::failed(format!("the terminal cannot be written to: {error}"))
        })?;
    }
}

/// What is said where there is nothing to show.
fn quiet(args: &TopArgs) -> String {
    let whom = match &args.service {
        Some(service) => format!("calls to or from {service}"),
        None => "calls".into(),
    };
    let seconds = args.window.as_secs().max(1);
    format!("no {whom} in the last {seconds} s; a call is seen about two seconds after it")
}

/// A service or program that nobody has and nobody called is a typo.
async fn known(client: &Client, name: &str) -> Result<(), CommandError> {
    let totals: EdgeList = ask(client, TOTALS).await?;
    if totals.edges.iter().any(|edge| view::is_of(edge, name)) {
        return Ok(());
    }
    let proxies: Vec<Proxy> = ask(client, PROXIES).await?;
    let mut names: Vec<String> = view::replicas(&proxies)
        .into_iter()
        .map(|replicas| replicas.name)
        .collect();
    let services = client
        .get(&path_of(leno_config::Kind::Service, None, None))
        .await?;
    let applied = items(&services, "/items").map(|service| text(service, "/metadata/name"));
    names.extend(applied.map(str::to_owned));
    if names.iter().any(|of| view::is_version_of(of, name)) {
        return Ok(());
    }
    names.sort_unstable();
    names.dedup();
    let there: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = match (leno_config::nearest(name, &there), there.as_slice()) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, []) => "nothing runs in it yet".into(),
        (None, names) if names.len() <= 12 => format!("there are {}", names.join(", ")),
        (None, _) => "leno status shows what there is".into(),
    };
    Err(CommandError::refused(format!(
        "there is no service or program {name} in this mesh"
    ))
    .hint(hint))
}

/// What the control plane knows now, as a picture without words around it.
pub(crate) async fn picture(client: &Client, window: Duration) -> Result<Page, CommandError> {
    let totals: EdgeList = ask(client, TOTALS).await?;
    let minute: EdgeList = ask(client, &window_path(Duration::from_secs(60))).await?;
    let window: EdgeList = ask(client, &window_path(window)).await?;
    let proxies: Vec<Proxy> = ask(client, PROXIES).await?;
    Ok(Page {
        rows: view::rows(&totals.edges, &minute, &window),
        replicas: view::replicas(&proxies),
        ..Page::default()
    })
}

/// All that was ever seen.
pub(crate) const TOTALS: &str = "/leno/v1/telemetry/totals";
/// All proxies.
pub(crate) const PROXIES: &str = "/leno/v1/proxies";

/// Asks for a document of the API.
pub(crate) async fn ask<T: DeserializeOwned>(
    client: &Client,
    path: &str,
) -> Result<T, CommandError> {
    understood(client.get(path).await?)
}

fn window_path(window: Duration) -> String {
    format!(
        "/leno/v1/telemetry/edges?window={}s",
        window.as_secs().max(1)
    )
}

fn of_service(rows: Vec<Row>, args: &TopArgs) -> Vec<Row> {
    match &args.service {
        Some(service) => view::of_service(rows, service),
        None => rows,
    }
}
