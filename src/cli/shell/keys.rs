//! Keys for the editor of lines, one at a time.
//!
//! The editor reads all that the terminal has, and forgets at the end of a line what it has not used; and while others
//! may print above the line, it waits for the terminal also when it still has keys. Whatever comes in one piece, as through
//! a slow connection or from a program that types, would be lost or late. So the editor reads from a pseudo-terminal,
//! which a key is brought to when the one before has been taken. What it has not taken is still in the terminal.

use rustyline::{KeyCode, KeyEvent, Modifiers};

#[cfg(unix)]
pub(super) use unix::Keys;

/// The key that has the editor draw the line anew.
pub(super) const DRAWS: KeyEvent = KeyEvent(KeyCode::F(12), Modifiers::NONE);

#[cfg(not(unix))]
pub(super) struct Keys;

#[cfg(not(unix))]
impl Keys {
    /// The editor reads keys one by one here.
    pub(super) fn one_at_a_time() -> Self {
        Self
    }

    pub(super) fn brought_during<T>(&self, read: impl FnOnce() -> T) -> T {
        read()
    }

    /// Nothing stops the process here and lets it go on.
    pub(super) async fn kept_after_stops(&self) {
        std::future::pending().await
    }
}

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io::{self, Read, Write};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::pty::openpty;
    use nix::sys::signal::Signal;
    use nix::sys::termios::{
        InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr,
    };
    use nix::unistd::{dup2_stdin, getpgrp, tcgetpgrp};
    use tokio::signal::unix::{SignalKind, signal};

    /// How long is waited before looking again whether a key has been taken, the longest at last.
    const LOOKS: [Duration; 4] =
        [Duration::ZERO, Duration::from_micros(20), Duration::from_micros(200), Duration::from_millis(2)];
    /// What a key begins with that comes as several bytes.
    const ESCAPE: u8 = 0x1b;
    /// [`super::DRAWS`]: has the editor draw the line, which is above what the shell has printed.
    const DRAW: &[u8] = b"\x1b[24~";
    /// Clears the line, and ends the input.
    const END: &[u8] = b"\x05\x15\x04";

    /// The terminal, and the pseudo-terminal that is standard input in its place; without these if there are none.
    pub(in super::super) struct Keys(Option<Relay>);

    struct Relay {
        terminal: File,
        /// Where keys are brought to.
        into: File,
        /// Where the editor takes them from.
        taken_from: OwnedFd,
    }

    impl Keys {
        /// Puts a pseudo-terminal in the place of standard input, if that is a terminal.
        pub(in super::super) fn one_at_a_time() -> Self {
            Self(Relay::new().ok())
        }

        /// Runs `read`, and brings it the keys that it wants.
        pub(in super::super) fn brought_during<T>(&self, read: impl FnOnce() -> T) -> T {
            let Some(relay) = &self.0 else { return read() };
            let (Ok(before), Ok((stop, stopped))) = (relay.take_keys_as_they_come(), UnixStream::pair())
            else {
                return read();
            };
            let result = std::thread::scope(|scope| {
                scope.spawn(|| relay.bring(&stopped));
                let result = read();
                drop(stop);
                result
            });
            let _ = tcsetattr(&relay.terminal, SetArg::TCSADRAIN, &before);
            result
        }
    }

    impl Keys {
        /// While a line is read: when the process goes on that was stopped (Ctrl-Z), the terminal is as the shell has it
        /// that it was started from, and is set again.
        pub(in super::super) async fn kept_after_stops(&self) {
            let goes_on = signal(SignalKind::from_raw(Signal::SIGCONT as i32));
            let (Some(relay), Ok(mut goes_on)) = (&self.0, goes_on) else {
                return std::future::pending().await;
            };
            while goes_on.recv().await.is_some() {
                // In the background, setting it would stop the process again.
                if tcgetpgrp(&relay.terminal) == Ok(getpgrp()) {
                    let _ = relay.take_keys_as_they_come();
                    let _ = (&relay.into).write_all(DRAW);
                }
            }
        }
    }

    impl Relay {
        fn new() -> io::Result<Self> {
            let terminal = io::stdin().as_fd().try_clone_to_owned()?;
            // Fails if it is none.
            tcgetattr(&terminal)?;
            let pair = openpty(None, None)?;
            // What comes is handled by the editor, and by nobody else.
            let mut mode = tcgetattr(&pair.slave)?;
            cfmakeraw(&mut mode);
            tcsetattr(&pair.slave, SetArg::TCSANOW, &mode)?;
            dup2_stdin(&pair.slave)?;
            Ok(Self { terminal: terminal.into(), into: pair.master.into(), taken_from: pair.slave })
        }

        /// Has the terminal hand over every key at once, as the editor does where it reads itself, and gives what
        /// it did before.
        fn take_keys_as_they_come(&self) -> nix::Result<Termios> {
            let before = tcgetattr(&self.terminal)?;
            let mut mode = before.clone();
            mode.input_flags &= !(InputFlags::BRKINT
                | InputFlags::ICRNL
                | InputFlags::INPCK
                | InputFlags::ISTRIP
                | InputFlags::IXON);
            mode.local_flags &=
                !(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::IEXTEN | LocalFlags::ISIG);
            mode.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
            mode.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
            tcsetattr(&self.terminal, SetArg::TCSADRAIN, &mode)?;
            Ok(before)
        }

        /// Brings keys until the other end of `stopped` is closed.
        fn bring(&self, stopped: &UnixStream) {
            while self.waits_for_key(stopped) {
                let key = match self.key() {
                    Ok(key) if !key.is_empty() => key,
                    // The terminal is gone.
                    _ => {
                        let _ = (&self.into).write_all(END);
                        return;
                    }
                };
                if (&self.into).write_all(&key).is_err() {
                    return;
                }
                let mut looks = LOOKS.into_iter();
                let mut wait = Duration::ZERO;
                while is_readable(&self.taken_from) {
                    if is_readable(stopped) {
                        return;
                    }
                    wait = looks.next().unwrap_or(wait);
                    if wait.is_zero() { std::thread::yield_now() } else { std::thread::sleep(wait) }
                }
            }
        }

        /// Waits for a key; false if none is wanted any more.
        fn waits_for_key(&self, stopped: &UnixStream) -> bool {
            let mut both = [
                PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN),
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            ];
            loop {
                match poll(&mut both, PollTimeout::NONE) {
                    Ok(_) => return !both[1].any().unwrap_or(true),
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
        }

        /// The bytes of a key: the editor tells one that begins with an escape from the key of that name by what
        /// comes with it.
        fn key(&self) -> io::Result<Vec<u8>> {
            let mut key = Vec::new();
            loop {
                let mut byte = [0];
                if (&self.terminal).read(&mut byte)? == 0 {
                    return Ok(key);
                }
                key.push(byte[0]);
                let is_whole = match key.as_slice() {
                    [ESCAPE] | [ESCAPE, b'[' | b'O'] => false,
                    [ESCAPE, b'[', .., last] => (0x40..=0x7e).contains(last),
                    _ => true,
                };
                if is_whole || !is_readable(&self.terminal) {
                    return Ok(key);
                }
            }
        }
    }

    /// Whether there is something to read, without waiting for it.
    fn is_readable(from: &impl AsFd) -> bool {
        let mut only = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        poll(&mut only, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}
