package client

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxEventLine bounds one line of an event stream, in bytes.
const maxEventLine = 16 << 20

// eventReader reads server-sent events.
type eventReader struct{ lines *bufio.Reader }

func newEventReader(r io.Reader) eventReader { return eventReader{bufio.NewReaderSize(r, 32<<10)} }

// next returns the data of the next server-sent event, its data lines joined; comments and other fields are
// passed over. An event that its empty line does not end is not delivered.
func (r eventReader) next() ([]byte, error) {
	var data []byte
	given := false
	for {
		line, err := r.readLine()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if given {
				return data, nil
			}
			continue
		}
		value, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		if given {
			data = append(data, '\n')
		}
		if len(data)+len(value) > maxEventLine {
			return nil, fmt.Errorf("an event is longer than %d bytes", maxEventLine)
		}
		data, given = append(data, value...), true
	}
}

// readLine reads a line without its end ("\n" or "\r\n").
func (r eventReader) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := r.lines.ReadSlice('\n')
		if len(line)+len(part) > maxEventLine {
			return nil, fmt.Errorf("an event is longer than %d bytes", maxEventLine)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, ErrStreamCut
		default:
			return nil, fmt.Errorf("%w: %w", ErrStreamCut, err)
		}
	}
}
