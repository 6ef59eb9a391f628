//! Weights on their way to the device: threads fill page-locked memory while what they filled before
//! is copied, so that reading a file, the bus and the device all work at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backend::Result;
use cudarc::driver::{result, sys};

use super::nvidia::{lost, no_memory};
use super::{DevicePtr, Fill, Sent};

/// Bytes of a place, at least: long enough for the bus, short enough for a processor's cache.
const ROOM_MIN: usize = 2 << 20;
/// Threads that fill places; a few reach the speed of the bus.
const LANES_MAX: usize = 16;
/// Places of a thread: one is filled while the other is copied.
const PLACES: usize = 2;

/// Page-locked memory and its counterpart on the device.
struct Place {
    host: *mut u8,
    device: sys::CUdeviceptr,
    /// Recorded behind every copy from `host`.
    copied: sys::CUevent,
}

// SAFETY: the memory belongs to the place, and the handles may be used by any thread on which the
// context is current.
unsafe impl Send for Place {}

/// Places for all threads.
pub(super) struct Lanes {
    room: usize,
    places: Vec<Place>,
}

impl Lanes {
    /// Places for pieces of at least `room` bytes. The context is current.
    pub(super) fn new(room: usize) -> Result<Self> {
        let room = room.max(ROOM_MIN);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lanes = Self { room, places: Vec::new() };
        for _ in 0..PLACES * threads.min(LANES_MAX) {
            match Place::new(room) {
                Ok(place) => lanes.places.push(place),
                Err(error) => {
                    lanes.free();
                    return Err(error);
                }
            }
        }
        Ok(lanes)
    }

    /// Bytes of a place.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// As `Driver::stream_in`. `bind` makes the context current on a thread.
    pub(super) fn run(
        &mut self,
        stream: sys::CUstream,
        n: usize,
        (fill, sent): (&Fill<'_>, &Sent<'_>),
        bind: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        let room = self.room;
        let stream = Stream(stream);
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let lane = |places: &mut [Place]| {
            bind()?;
            for turn in 0.. {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n || failed.load(Ordering::Relaxed) {
                    break;
                }
                let place = &mut places[turn % PLACES];
                place.send(&stream, (i, room), fill, sent).inspect_err(|_| {
                    failed.store(true, Ordering::Relaxed);
                })?;
            }
            Ok(())
        };
        if n == 1 {
            return lane(&mut self.places[..PLACES]);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .places
                .chunks_mut(PLACES)
                .take(n)
                .map(|places| scope.spawn(|| lane(places)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            // All are waited for, whatever the first says.
            threads.into_iter().map(join).fold(Ok(()), Result::and)
        })
    }

    /// Gives everything back; the stream is idle. Errors mean that the device is lost already.
    pub(super) fn free(&mut self) {
        for place in self.places.drain(..) {
            // SAFETY: the place was made by `Place::new` and is used no more.
            unsafe {
                let _ = result::event::destroy(place.copied);
                let _ = result::free_sync(place.device);
                let _ = result::free_host(place.host.cast());
            }
        }
    }
}

/// A handle that threads share.
struct Stream(sys::CUstream);

// SAFETY: the driver lets any thread use a stream whose context is current there.
unsafe impl Sync for Stream {}

impl Place {
    fn new(room: usize) -> Result<Self> {
        // SAFETY: the memory is freed by `Lanes::free`.
        let host = unsafe { result::malloc_host(room, 0) };
        let host = host.map_err(no_memory("page-locked memory of the host", room))?;
        // SAFETY: as above.
        let device = unsafe { result::malloc_sync(room) };
        let device = device.map_err(no_memory("weights on their way", room))?;
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let copied = result::event::create(flags).map_err(lost("an event"))?;
        Ok(Self { host: host.cast(), device, copied })
    }

    /// Fills the place with piece `i`, copies it and queues what uses it.
    fn send(
        &mut self,
        stream: &Stream,
        (i, room): (usize, usize),
        fill: &Fill<'_>,
        sent: &Sent<'_>,
    ) -> Result<()> {
        // SAFETY: the event lives as long as the place; one that was never recorded is over.
        unsafe { result::event::synchronize(self.copied) }.map_err(lost("loading weights"))?;
        // SAFETY: `room` bytes were taken, the copy that read them is over, and the place is this
        // thread's alone.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.host, room) };
        let n = fill(i, bytes)?;
        // SAFETY: the device's memory has `room` bytes, and what used the piece before was queued
        // before; the host's is not touched until the event says that the copy is over.
        unsafe {
            result::memcpy_htod_async(self.device, &bytes[..n], stream.0)
                .map_err(lost("loading weights"))?;
            result::event::record(self.copied, stream.0).map_err(lost("loading weights"))?;
        }
        sent(i, DevicePtr(self.device))
    }
}
