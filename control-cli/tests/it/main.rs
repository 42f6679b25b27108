//! The built program, from outside: exit codes, messages, and what it asks of a metadata server.

mod ask;
mod change;
mod discover;
mod events;
mod fake_mds;
mod host;
mod join;
mod make;
mod name_server;
mod reach;
mod services;
mod top;
mod usage;
