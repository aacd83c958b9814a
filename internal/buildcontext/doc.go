// Package buildcontext packs files of a directory for the copy steps of a template's build.
//
// For each step there is a tar with just what it copies, in a form that depends on nothing but names, modes and
// contents: sorted, owned by root, all of one time. So its digest changes only when the step's result does, and a build
// on the server begins after the last step that is the same as before. The files that .dockerignore names are left out.
package buildcontext
