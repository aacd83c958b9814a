package guest

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	// maxSegments bounds how often the kept output may change between the streams.
	maxSegments = 8192
	// stallLimit: a client that takes nothing for so long no longer holds a command back while another one is attached.
	stallLimit = 10 * time.Second
)

// outputLog is what a session has put out: the latest part of each stream, and the order of the two. An offset counts
// the bytes of both streams together. Readers follow it, each with a cursor of its own; a writer waits for them rather
// than drop what they have not read. Without a reader the oldest output goes.
type outputLog struct {
	mu       sync.Mutex
	changed  *sync.Cond // more output, more room, a cursor less, the end
	streams  [2]ring
	segments []segment
	end      int64
	closed   bool
	cursors  map[*cursor]struct{}
}

// segment is a run of output of one stream. It ends where the next one begins.
type segment struct {
	offset int64
	stream int   // index in outputLog.streams
	at     int64 // position in the stream
}

func newOutputLog() *outputLog {
	l := &outputLog{cursors: make(map[*cursor]struct{})}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// write takes output of a stream. It waits while a reader that is attached would lose something.
func (l *outputLog) write(stream int, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(p) > 0 {
		n := min(l.room(stream), len(p))
		if n == 0 {
			l.waitForReaders()
			continue
		}
		l.append(stream, p[:n])
		p = p[n:]
		l.changed.Broadcast()
	}
}

// sink is a pump's sink for a stream.
func (l *outputLog) sink(stream int) func(p []byte) bool {
	return func(p []byte) bool {
		l.write(stream, p)
		return true
	}
}

// waitForReaders waits for a change. A reader that stalls is one only time tells of.
func (l *outputLog) waitForReaders() {
	if len(l.cursors) > 1 {
		defer time.AfterFunc(stallLimit/10, l.changed.Broadcast).Stop()
	}
	l.changed.Wait()
}

// room is how much of a stream can be added without taking anything from a reader.
func (l *outputLog) room(stream int) int {
	r := &l.streams[stream]
	room := int64(guestapi.MaxReplay)
	full := l.needsSegment(stream) && len(l.segments) >= maxSegments
	for c := range l.cursors {
		if len(l.cursors) > 1 && c.stalled() {
			continue
		}
		if full && c.offset < l.segments[1].offset {
			return 0
		}
		room = min(room, guestapi.MaxReplay-(r.end-l.position(c.offset, stream)))
	}
	return int(room)
}

func (l *outputLog) needsSegment(stream int) bool {
	return len(l.segments) == 0 || l.segments[len(l.segments)-1].stream != stream
}

func (l *outputLog) append(stream int, p []byte) {
	r := &l.streams[stream]
	if l.needsSegment(stream) {
		if len(l.segments) >= maxSegments {
			l.dropFirst()
		}
		l.segments = append(l.segments, segment{offset: l.end, stream: stream, at: r.end})
	}
	r.write(p)
	l.end += int64(len(p))
	for len(l.segments) > 0 {
		if s := l.segments[0]; s.at+l.length(0) > l.streams[s.stream].start {
			break
		}
		l.dropFirst()
	}
}

// dropFirst forgets the first segment and its bytes.
func (l *outputLog) dropFirst() {
	s := l.segments[0]
	l.streams[s.stream].forget(s.at + l.length(0))
	l.segments = l.segments[1:]
}

// length is the number of bytes of segment i.
func (l *outputLog) length(i int) int64 {
	if i+1 < len(l.segments) {
		return l.segments[i+1].offset - l.segments[i].offset
	}
	return l.end - l.segments[i].offset
}

// find is the index of the segment that has the byte at offset; -1 when it lies before the first one.
func (l *outputLog) find(offset int64) int {
	return sort.Search(len(l.segments), func(i int) bool { return l.segments[i].offset > offset }) - 1
}

// position is the place in a stream of its first byte at or after offset.
func (l *outputLog) position(offset int64, stream int) int64 {
	r := &l.streams[stream]
	i := max(l.find(offset), 0)
	// Segments take turns, so it is this one or the next.
	for ; i < len(l.segments); i++ {
		if s := l.segments[i]; s.stream == stream {
			at := s.at + max(0, min(offset-s.offset, l.length(i)))
			return max(at, r.start)
		}
	}
	return r.end
}

// close says that nothing more will come.
func (l *outputLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
}

// size is how much memory the output takes.
func (l *outputLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.streams[0].buf) + len(l.streams[1].buf)
}

// forget drops all output.
func (l *outputLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.streams {
		l.streams[i].forget(l.streams[i].end)
	}
	l.segments = nil
}

// cursor is one reader's place in an outputLog.
type cursor struct {
	log    *outputLog
	offset int64
	// took is when the reader was last given something; zero while it waits for more.
	took time.Time
}

// attach adds a reader at offset; false when the output has not come so far.
func (l *outputLog) attach(offset int64) (*cursor, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset < 0 || offset > l.end {
		return nil, false
	}
	c := &cursor{log: l, offset: offset}
	l.cursors[c] = struct{}{}
	return c, true
}

// detach removes the reader, so that nobody waits for it.
func (c *cursor) detach() {
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	delete(c.log.cursors, c)
	c.log.changed.Broadcast()
}

// stalled says whether the reader has been busy for long with what it was given.
func (c *cursor) stalled() bool { return !c.took.IsZero() && time.Since(c.took) > stallLimit }

// output is what a reader gets next: n bytes of a stream, or else that lost bytes are no longer kept, or the end.
type output struct {
	stream int
	n      int
	lost   int64
	offset int64 // where the reader is now
	end    bool
}

// next waits for output, at most len(p) bytes of one stream. False: ctx is done.
func (c *cursor) next(ctx context.Context, p []byte) (output, bool) {
	l := c.log
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changed.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	c.took = time.Time{}
	for c.offset == l.end && !l.closed && ctx.Err() == nil {
		l.changed.Wait()
	}
	if ctx.Err() != nil {
		return output{}, false
	}
	before := c.offset
	i, at := c.skipLost()
	if c.offset > before {
		return output{lost: c.offset - before, offset: c.offset}, true
	}
	if c.offset == l.end {
		return output{end: true, offset: c.offset}, true
	}
	s := l.segments[i]
	n := l.streams[s.stream].read(at, p[:min(int64(len(p)), s.at+l.length(i)-at)])
	c.offset += int64(n)
	c.took = time.Now()
	l.changed.Broadcast()
	return output{stream: s.stream, n: n, offset: c.offset}, true
}

// skipLost moves the cursor to the next byte that is kept, or to the end, and says in which segment and where in its
// stream that is.
func (c *cursor) skipLost() (i int, at int64) {
	l := c.log
	for c.offset < l.end {
		i = l.find(c.offset)
		if i < 0 {
			c.offset = l.end
			if len(l.segments) > 0 {
				c.offset = l.segments[0].offset
			}
			continue
		}
		s := l.segments[i]
		at = s.at + c.offset - s.offset
		start := l.streams[s.stream].start
		if at >= start {
			return i, at
		}
		c.offset += min(start, s.at+l.length(i)) - at
	}
	return 0, 0
}
