mod clients;
mod retention;
