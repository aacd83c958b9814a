package guest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// readJSON reads a body of at most limit bytes into v. Unknown fields are ignored.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge("the body is larger than %d bytes", limit)
	}
	if err != nil {
		return badRequest("the body ended early")
	}
	return decodeJSON(body, v)
}

// decodeJSON says which field is wrong without the names of Go's types.
func decodeJSON(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return badRequest("the body must be a JSON object")
		}
		return badRequest("%s has the wrong type: %s", wrong.Field, wrong.Value)
	}
	if err != nil {
		return badRequest("the body is not valid JSON: %s", err)
	}
	return nil
}
