// Package dockerfile reads the part of the Dockerfile language that a template's build spec can express: FROM, RUN, ENV,
// WORKDIR, USER, COPY, ADD of local files, CMD and ENTRYPOINT, with comments, line continuations, JSON forms and
// variables.
//
// Whatever else a file holds is an error that names it and its line; nothing is passed over in silence, because a
// template that lacks half of what its Dockerfile says is worse than none. All problems are reported at once.
//
// A variable is replaced where Docker replaces it, when an ENV of the same file has set it. One that only the image can
// know stays in an ENV's value as ${NAME}, to be replaced by the build; elsewhere it is an error.
package dockerfile
