//! Types and codecs of Counterpoint, without IO.
