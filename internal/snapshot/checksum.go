package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	goruntime "runtime"
	"sync"
	"syscall"
)

const (
	openNoFollow = syscall.O_NOFOLLOW | syscall.O_CLOEXEC

	// lseek(2) whence values, Linux numbers; package io does not name them.
	seekData = 3
	seekHole = 4

	// readBytes is how much is read at once: large enough to make the call cheap, small enough to stay in the cache.
	readBytes = 256 << 10
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // cached by crc32

// forEachFile runs do for every file on as many goroutines as there are processors, and returns the first error.
func forEachFile(ctx context.Context, files []File, do func(context.Context, *File) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *File, len(files))
	for i := range files {
		next <- &files[i]
	}
	close(next)
	var wg sync.WaitGroup
	for range min(len(files), goruntime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for f := range next {
				if ctx.Err() != nil {
					return
				}
				if err := do(ctx, f); err != nil {
					cancel(err) // the first one stays
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// countProgress adds up what several goroutines report.
func countProgress(total int64, progress func(done, total int64)) func(int64) {
	if progress == nil {
		return func(int64) {}
	}
	var mu sync.Mutex
	var done int64
	return func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		progress(done, total)
	}
}

// checksum is the CRC-32C of the first size bytes of f. Holes are not read: a mostly empty disk of many GiB takes as
// long as its data. count hears of every piece done.
func checksum(ctx context.Context, f *os.File, size int64, count func(int64)) (uint32, error) {
	var sum uint32
	buf := make([]byte, min(size, readBytes))
	for pos := int64(0); pos < size; {
		data, hole, err := nextData(f, pos, size)
		if err != nil {
			return 0, err
		}
		if data > pos {
			sum = addZeros(sum, data-pos)
			count(data - pos)
		}
		for pos = data; pos < hole; {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			piece := buf[:min(hole-pos, int64(len(buf)))]
			if _, err := f.ReadAt(piece, pos); err != nil {
				return 0, shortRead(err)
			}
			sum = crc32.Update(sum, castagnoli(), piece)
			pos += int64(len(piece))
			count(int64(len(piece)))
		}
	}
	return sum, nil
}

func shortRead(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the file became shorter", ErrCorrupt)
	}
	return err
}

// nextData finds the first range of data at or after pos, within size. data == hole == size when only a hole is left.
func nextData(f *os.File, pos, size int64) (data, hole int64, err error) {
	data, err = f.Seek(pos, seekData)
	if errors.Is(err, syscall.ENXIO) {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("looking for holes: %w", err)
	}
	hole, err = f.Seek(data, seekHole)
	if err != nil {
		return 0, 0, fmt.Errorf("looking for holes: %w", err)
	}
	return min(data, size), min(hole, size), nil
}

// addZeros is the CRC of a file with n zero bytes appended, in O(log n): appending a zero byte multiplies the
// remainder by x^8 modulo the polynomial.
func addZeros(sum uint32, n int64) uint32 {
	factor := uint32(1) << 31 // the polynomial 1; the bits are reflected
	for square := uint32(1) << (31 - 8); n > 0; n >>= 1 {
		if n&1 != 0 {
			factor = multiply(factor, square)
		}
		square = multiply(square, square)
	}
	return ^multiply(factor, ^sum)
}

// multiply multiplies two polynomials modulo the Castagnoli polynomial, bits reflected.
func multiply(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		carry := b & 1
		b >>= 1
		if carry != 0 {
			b ^= crc32.Castagnoli
		}
	}
	return product
}
