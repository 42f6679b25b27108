//! The commands: one module and one struct each.

pub(crate) mod auth_node;
pub(crate) mod change_password;
pub(crate) mod configure_cs;
pub(crate) mod create;
pub(crate) mod detached;
pub(crate) mod export;
pub(crate) mod get_attr;
pub(crate) mod get_config;
pub(crate) mod get_event;
pub(crate) mod list_clients;
pub(crate) mod list_nodes;
pub(crate) mod list_services;
pub(crate) mod ls;
pub(crate) mod make_cs;
pub(crate) mod make_mds;
pub(crate) mod mv;
pub(crate) mod resize;
pub(crate) mod revoke;
pub(crate) mod revoke_node;
pub(crate) mod rm;
pub(crate) mod set_attr;
pub(crate) mod set_config;
pub(crate) mod start_service;
pub(crate) mod stat;
pub(crate) mod stop_service;
