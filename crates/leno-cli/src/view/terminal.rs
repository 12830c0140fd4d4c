//! The terminal while a live view is on it: another screen, no echo, and as it was afterwards.
//!
//! Ctrl-C and Ctrl-Z stay signals, so that a view that hangs can be ended.

use std::io::{self, IsTerminal, Read, Stdout};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor, execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
    },
};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Enough seen.
    Quit,
}

/// Keys that wait to be heard.
const KEYS: usize = 8;

/// The other screen. Dropping it brings the first back.
pub(crate) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    before: Option<Termios>,
    keys: mpsc::Receiver<Key>,
}

impl Screen {
    /// Opens it, where standard output is a terminal.
    pub(crate) fn open() -> io::Result<Option<Self>> {
        if !io::stdout().is_terminal() {
            return Ok(None);
        }
        let (heard, keys) = mpsc::channel(KEYS);
        let before = io::stdin().is_terminal().then(quiet).transpose()?;
        if before.is_some() {
            std::thread::Builder::new()
                .name("keys".into())
                .spawn(move || listen(&heard))?;
        }
        let mut screen = Self {
            terminal: Terminal::new(CrosstermBackend::new(io::stdout()))?,
            before,
            keys,
        };
        // Not `Terminal::clear`: that asks where the cursor is, and the answer would come as keys.
        execute!(
            screen.terminal.backend_mut(),
            EnterAlternateScreen,
            Clear(ClearType::All),
            cursor::Hide
        )?;
        Ok(Some(screen))
    }

    /// Draws a picture; what is as it was is not drawn again.
    pub(crate) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture).map(drop)
    }

    /// The next key. Dropping the wait loses none.
    pub(crate) async fn key(&mut self) -> Key {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

/// How wide a line may be where standard output is a terminal; elsewhere as wide as it likes.
pub(crate) fn width() -> usize {
    // 0: a terminal that does not know.
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        Ok(_) | Err(_) => usize::MAX,
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        drop(execute!(
            self.terminal.backend_mut(),
            LeaveAlternateScreen,
            cursor::Show
        ));
        if let Some(before) = &self.before {
            let _gone = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys come at once and are not shown; returns what was set before.
fn quiet() -> io::Result<Termios> {
    let before = tcgetattr(io::stdin())?;
    let mut quiet = before.clone();
    quiet
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ICANON);
    tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
    Ok(before)
}

/// Blocks in a read for as long as the process lives; there is nothing to tell it to end.
fn listen(heard: &mpsc::Sender<Key>) {
    let mut byte = [0];
    while io::stdin().lock().read_exact(&mut byte).is_ok() {
        if matches!(byte, [b'q' | b'Q']) && heard.blocking_send(Key::Quit).is_err() {
            return;
        }
    }
}
