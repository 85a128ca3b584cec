// SPDX-License-Identifier: GPL-2.0

//! The kernel log, which is the [machine](crate::machine)'s.

/// Logs a line.
#[doc(hidden)]
pub fn print(level: &str, args: core::fmt::Arguments<'_>) {
    let line = args.to_string();
    crate::machine::log(level, line.trim_end_matches('\n'));
}

/// Logs a line of level err.
#[macro_export]
macro_rules! pr_err {
    ($($arg:tt)*) => { $crate::print::print("err", format_args!($($arg)*)) };
}

/// Logs a line of level warning.
#[macro_export]
macro_rules! pr_warn {
    ($($arg:tt)*) => { $crate::print::print("warning", format_args!($($arg)*)) };
}

/// Logs a line of level notice.
#[macro_export]
macro_rules! pr_notice {
    ($($arg:tt)*) => { $crate::print::print("notice", format_args!($($arg)*)) };
}

/// Logs a line of level info.
#[macro_export]
macro_rules! pr_info {
    ($($arg:tt)*) => { $crate::print::print("info", format_args!($($arg)*)) };
}

/// Logs a line of level debug.
#[macro_export]
macro_rules! pr_debug {
    ($($arg:tt)*) => { $crate::print::print("debug", format_args!($($arg)*)) };
}

/// Warns, with a report, if the condition holds; gives it.
#[macro_export]
macro_rules! warn_on {
    ($cond:expr) => {{
        let cond = $cond;
        if cond {
            $crate::machine::warn(concat!("WARN_ON: ", stringify!($cond)));
        }
        cond
    }};
}

/// Checked when it is compiled.
#[macro_export]
macro_rules! static_assert {
    ($cond:expr $(, $arg:literal)?) => {
        const _: () = assert!($cond $(, $arg)?);
    };
}

/// Checked when it runs, on the host.
#[macro_export]
macro_rules! build_assert {
    ($($arg:tt)*) => { assert!($($arg)*) };
}

/// Arguments of a format.
#[macro_export]
macro_rules! fmt {
    ($($arg:tt)*) => { format_args!($($arg)*) };
}
