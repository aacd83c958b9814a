// Package unpack turns layers of container images, and tar archives of root file systems, into a directory tree.
//
// What it reads is hostile. An Unpacker keeps every entry inside its root: names are resolved as a process with that
// root would resolve them, so an absolute symbolic link stays inside, and the directory that an entry is made in is
// opened with openat2, by which the kernel itself refuses a path that leaves the root or goes through a link. A name
// that climbs above the root, with ".." or through a relative link, is refused with an UnsafeError. What an archive can
// take is bounded by Limits, else a TooLargeError.
//
// Layers are applied in order, each over those before it. A whiteout (a file named .wh.<name>) hides <name> of the lower
// layers, the file .wh..wh..opq all that lower layers have in its directory; neither hides what its own layer has,
// wherever in the layer it stands. Of two entries with one name the last wins. Owners, modes with setuid, setgid and
// sticky bits, modification times, hard links, device nodes, holes and extended attributes are kept: user.*,
// security.capability and POSIX ACLs; other attributes mean something only to the machine they come from and are left
// out.
//
// It needs root: ownership and device nodes are not faked.
package unpack
