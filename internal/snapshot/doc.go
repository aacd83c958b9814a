// Package snapshot keeps checkpoints on a directory so that a crash at any moment leaves each one whole or absent.
//
// A snapshot is a manifest and the files a runtime driver wrote. Its life:
//
//	Begin    staging/<id>/files/      the driver writes here
//	Commit   fsync and checksum every file, write staging/<id>/manifest.json last, then rename
//	         staging/<id> to snapshots/<id>: from here on, and not before, the snapshot exists
//	Delete   rename snapshots/<id> into trash/, then remove: a half-deleted snapshot never counts
//
// Open removes what a crash left in staging/ and trash/. One Store may use a directory at a time; the server's lock on
// its data directory sees to that.
//
// The checksums (CRC-32C) find torn, truncated and rotten files. They are no defence against someone who can write
// to the directory: whoever can do that can also write a matching checksum. Snapshots hold a guest's memory and its
// agent's secret, so directories are 0700 and files 0600.
package snapshot
