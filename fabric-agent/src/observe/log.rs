//! The end of the agent's own log, for reports.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that are kept.
const ROOM: usize = 256 << 10;

/// Keeps what was written last. Cheap to clone; all clones are one log.
#[derive(Clone, Debug, Default)]
pub struct RecentLog {
    lines: Arc<Mutex<(VecDeque<Vec<u8>>, usize)>>,
}

impl RecentLog {
    /// What is kept, oldest first, whole lines.
    pub fn text(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.0.iter().map(|line| String::from_utf8_lossy(line)).collect()
    }
}

impl Write for RecentLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, bytes) = &mut *lines;
        kept.push_back(line.to_vec());
        *bytes += line.len();
        while *bytes > ROOM
            && let Some(oldest) = kept.pop_front()
        {
            *bytes -= oldest.len();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for RecentLog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::{ROOM, RecentLog};

    #[test]
    fn the_end_of_the_log_is_kept() {
        let mut log = RecentLog::default();
        for number in 0..ROOM / 8 {
            // Sixteen bytes: half of them have room.
            writeln!(log.clone(), "line {number:10}").expect("memory");
        }
        log.flush().expect("memory");
        let text = log.text();
        assert!(text.len() <= ROOM && text.len() > ROOM - 32, "{}", text.len());
        assert!(text.ends_with(&format!("line {:10}\n", ROOM / 8 - 1)) && text.starts_with("line "));
    }
}
