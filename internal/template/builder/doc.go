// Package builder makes teams' templates: it takes builds from the store, and from each build spec makes an image and a
// checkpoint that sandboxes start from.
//
// A build goes through these phases: its source becomes a root image (pulled, imported, or another template's); its
// steps run in an ordinary sandbox made from that image, each from where the one before it left off; the sandbox's root
// file system becomes the template's image; a sandbox booted from that starts the template's process and is captured.
//
// After every step that does something the sandbox is saved under a key made of all that led to it: source image, shape,
// runtime and the steps so far. A later build goes on from the longest beginning that it shares with an earlier one. The
// saved states are a cache, bounded in number, size and age.
//
// Below its directory it keeps:
//
//	builds/<build id>.log        a build's log, one JSON object a line
//	cache/<snapshot id>.json     a saved state, written before the snapshot is begun
//	uploads/<kind>-<hex digest>  what was sent for builds to use
//
// What a crash leaves is either named there or by a row in the store, or it is removed at the next start: snapshots
// without either by package control, sandboxes of builds too.
package builder
