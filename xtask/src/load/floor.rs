//! What the system takes for a token whatever is done with it: one thread is woken and writes an
//! event's bytes to a socket, beside a maker that pauses, fills as many logits as an engine, and
//! sends.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::Duration;

use anyhow::Context as _;

use super::cpu;

/// Bytes of an event of Chat as they go over the wire.
const EVENT: usize = 250;
const N_VOCAB: usize = 129_280;

/// Time on a processor of the thread that writes, for each of `n` events.
pub(super) fn measure(n: usize, pace: Duration) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let reader = BufReader::new(TcpStream::connect(listener.local_addr()?)?);
    let (mut writer, _) = listener.accept()?;
    writer.set_nodelay(true)?;
    let (give, take) = channel::<()>();
    let write = move || -> std::io::Result<Duration> {
        let event = [vec![b'x'; EVENT - 1], vec![b'\n']].concat();
        let before = cpu::of_this_thread()?;
        while take.recv().is_ok() {
            writer.write_all(&event)?;
        }
        Ok(cpu::of_this_thread()?.saturating_sub(before))
    };
    let writing = Builder::new().name("floor".to_owned()).spawn(write)?;
    let reading = Builder::new().spawn(move || reader.lines().map_while(Result::ok).count())?;
    let mut logits = vec![0.0f32; N_VOCAB];
    for i in 0..n {
        std::thread::sleep(pace);
        logits.fill(i as f32);
        std::hint::black_box(&logits);
        give.send(()).context("the writer ended early")?;
    }
    drop(give);
    let spent = writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let n_read = reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    anyhow::ensure!(n_read == n, "{n_read} of {n} events were read");
    Ok(spent / n as u32)
}
