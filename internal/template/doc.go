// Package template keeps the system templates, superserve/…, in service.
//
// For each definition the Manager makes sure that there is a row in the store, a root image, and a checkpoint of a
// sandbox made from it with the agent up. It compares what is there with what is wanted (the definition, the extra CA
// certificates, the runtime's version) and remakes what differs in the background. A template that can be used stays
// in service until its successor is complete; the row then changes in one write.
//
// The row is the truth about what is in service. Beside it, <dir>/<template id>.json records every checkpoint the
// Manager has begun, before it begins it. Whatever is recorded there and not in the row is removed: what a crash cut
// short at the next start, what a successor replaced after a time of grace.
package template
