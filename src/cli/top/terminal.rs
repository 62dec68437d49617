//! The terminal, while it is a screen and not a roll of lines.

use std::io::{self, Write as _};

use anyhow::Context as _;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Print, SetAttribute};
use crossterm::terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute, queue};
use futures_util::StreamExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Order;

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Sort(Order),
    End,
}

/// The terminal's other screen; what was on it before is back when this is gone.
pub(super) struct Screen {
    events: EventStream,
    /// What else ends it: it must not leave the terminal as it is.
    ends: [Signal; 2],
}

impl Screen {
    pub(super) fn open() -> anyhow::Result<Self> {
        let ends = [signal(SignalKind::terminate())?, signal(SignalKind::hangup())?];
        terminal::enable_raw_mode().context("the terminal can't be drawn on; --once says it once")?;
        let screen = Self { events: EventStream::new(), ends };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Draws a headline and what is below it, as much of it as fits.
    pub(super) fn draw(&mut self, headline: &str, text: &str) -> io::Result<()> {
        let (columns, lines) = terminal::size()?;
        let mut out = io::stdout().lock();
        queue!(out, cursor::MoveTo(0, 0), SetAttribute(Attribute::Bold), Print(fitting(headline, columns)))?;
        queue!(out, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
        for (line, at) in text.lines().zip(1..lines) {
            queue!(
                out,
                cursor::MoveTo(0, at),
                Print(fitting(line, columns)),
                Clear(ClearType::UntilNewLine)
            )?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for a key that means something; a terminal that is gone wants nothing more, nor does who sends a signal.
    pub(super) async fn wish(&mut self) -> Wish {
        let [terminated, hung_up] = &mut self.ends;
        loop {
            let event = tokio::select! {
                event = self.events.next() => event,
                _ = terminated.recv() => None,
                _ = hung_up.recv() => None,
            };
            let Some(Ok(event)) = event else { return Wish::End };
            if let Some(wish) = wish(&event) {
                return wish;
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing any more.
        drop(execute!(io::stdout(), cursor::Show, LeaveAlternateScreen));
        drop(terminal::disable_raw_mode());
    }
}

fn fitting(line: &str, columns: u16) -> String {
    line.chars().take(usize::from(columns)).collect()
}

fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return None };
    match code {
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::End),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::End),
        KeyCode::Char('b') => Some(Wish::Sort(Order::Busy)),
        KeyCode::Char('w') => Some(Wish::Sort(Order::Waiting)),
        KeyCode::Char('t') => Some(Wish::Sort(Order::Transactions)),
        KeyCode::Char('c') => Some(Wish::Sort(Order::Clients)),
        _ => None,
    }
}
