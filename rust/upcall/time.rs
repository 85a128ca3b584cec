// SPDX-License-Identifier: GPL-2.0

//! Waiting for a time.
//!
//! C header: [`include/linux/hrtimer.h`](srctree/include/linux/hrtimer.h).
//!
//! # Concurrency
//!
//! The timer lies inside the pinned future and needs no memory of its own. Its handler runs in hard
//! interrupt context and completes the future's [`Done`](super::done::Done). Dropping the future cancels the timer,
//! which waits for a handler that is running: a few instructions, on another CPU. Process context.

use super::race::{race, Either, Race};
use super::stats::Wait;
use super::sys::{self, Timer};
use core::future::Future;
use core::marker::PhantomPinned;
use core::ops::Add;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

/// A time of the monotonic clock, which stands still while the system is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The time now. Any context.
    pub fn now() -> Self {
        Self(sys::now())
    }

    /// How long it is since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// A time too far away, some centuries, is the last that there is.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos).min(i64::MAX as u64))
    }
}

/// The future of [`sleep_until`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep {
    at: Instant,
    timer: Timer,
    started: bool,
    over: bool,
    _pinned: PhantomPinned,
}

/// Waits until `at`, or a little longer; not at all if `at` is over.
///
/// # Cancellation
///
/// Dropping it cancels the timer.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep {
        at,
        timer: Timer::new(),
        started: false,
        over: false,
        _pinned: PhantomPinned,
    }
}

/// Waits for `duration`, from now on. See [`sleep_until`].
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: Nothing is moved out of it.
        let this = unsafe { self.get_unchecked_mut() };
        if this.over {
            return sys::polled_again();
        }
        if !this.started {
            if Instant::now() >= this.at {
                this.over = true;
                return Poll::Ready(());
            }
            this.started = true;
            // SAFETY: The future is pinned, and cancels the timer before it goes.
            unsafe { this.timer.start(this.at.0) };
        }
        // SAFETY: `&mut self` makes us the one waiter.
        let fired = unsafe { this.timer.done().poll(cx, Wait::Timer) };
        this.over = fired.is_ready();
        fired
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.started {
            // SAFETY: It was started once.
            unsafe { self.timer.cancel() };
        }
    }
}

/// The time that [`timeout`] gave was over first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl From<Elapsed> for sys::Error {
    fn from(_: Elapsed) -> Self {
        sys::ETIMEDOUT
    }
}

/// Waits for `future`, but no longer than `duration`, from now on; it is then dropped.
///
/// # Cancellation
///
/// Dropping it drops `future`.
///
/// ```
/// # use core::time::Duration;
/// # use kernel::prelude::*;
/// # use upcall::{timeout, Notify};
/// # async fn example(event: &Notify) -> Result {
/// timeout(Duration::from_secs(1), event.notified()).await??;
/// # Ok(())
/// # }
/// ```
pub fn timeout<F: Future>(
    duration: Duration,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    Timeout(Some(race(future, sleep(duration))))
}

/// The future of [`timeout`], until it is ready.
struct Timeout<F>(Option<Race<F, Sleep>>);

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: The field is pinned with `self`.
        let mut race = unsafe { self.map_unchecked_mut(|this| &mut this.0) };
        let Some(running) = race.as_mut().as_pin_mut() else {
            return sys::polled_again();
        };
        let Poll::Ready(first) = running.poll(cx) else {
            return Poll::Pending;
        };
        race.set(None);
        Poll::Ready(match first {
            Either::Left(output) => Ok(output),
            Either::Right(()) => Err(Elapsed),
        })
    }
}

/// Ticks at fixed intervals. See [`interval`].
pub struct Interval {
    next: Instant,
    /// In nanoseconds, not 0.
    period: u64,
}

/// Makes ticks every `period`, the first at once.
///
/// `period` is at least a microsecond. Ticks that were missed are left out.
///
/// ```
/// # use core::time::Duration;
/// # use upcall::interval;
/// # async fn example(work: impl Fn()) {
/// let mut ticks = interval(Duration::from_millis(10));
/// loop {
///     ticks.tick().await;
///     work();
/// }
/// # }
/// ```
pub fn interval(period: Duration) -> Interval {
    Interval {
        next: Instant::now(),
        period: u64::try_from(period.as_nanos()).map_or(u64::MAX, |nanos| nanos.max(1000)),
    }
}

impl Interval {
    /// Waits for the next tick and gives the time that it was due.
    ///
    /// # Cancellation
    ///
    /// A tick that was not waited for to its end comes with the next call.
    pub async fn tick(&mut self) -> Instant {
        let due = self.next;
        sleep_until(due).await;
        let late = Instant::now().0.saturating_sub(due.0);
        // The first that is not over.
        let missed = late.saturating_sub(1).checked_div(self.period);
        let steps = missed.unwrap_or(0).saturating_add(1);
        self.next = due + Duration::from_nanos(self.period.saturating_mul(steps));
        due
    }
}
