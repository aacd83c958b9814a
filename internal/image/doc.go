// Package image makes and keeps root images: read-only EROFS files that sandboxes have as their root file system.
//
// A Store is a directory. It holds one directory for each image, named by the image's id (the SHA-256 of its bytes):
//
//	<dir>/<id>/root.erofs   the image
//	<dir>/<id>/meta.json    what it was made from
//	<dir>/<id>/root         where Mount mounts it, once, for all who use it
//	<dir>/.build/<random>   a build under way
//	<dir>/.lock             held by the process that builds
//
// An image appears by one rename of a complete, synced directory; without its meta.json it does not exist. Whatever a
// killed process left in .build is removed at the next Open, stale mounts first.
//
// Bootstrap makes an image from Debian packages with mmdebstrap, so a first run needs no image registry. The tools run
// as children in a mount and a process namespace of their own: what they mount is never seen on the host, and none of
// them outlives this process.
package image
