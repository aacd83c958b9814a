package snapshot

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// TestChecksumOfHoles compares with the plain checksum over what reading the file gives.
func TestChecksumOfHoles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		path := filepath.Join(t.TempDir(), "f")
		size := r.Int64N(3 << 20)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		for range r.IntN(5) {
			piece := make([]byte, r.IntN(200<<10))
			for i := range piece {
				piece[i] = byte(r.Uint32())
			}
			at := r.Int64N(size + 1)
			if _, err := f.WriteAt(piece[:min(int64(len(piece)), size-at)], at); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var counted int64
		got, err := checksum(t.Context(), f, size, func(n int64) { counted += n })
		if want := crc32.Checksum(data, castagnoli()); err != nil || got != want || counted != size {
			t.Fatalf("size %d: checksum %08x, %v, %d bytes counted; want %08x", size, got, err, counted, want)
		}
	}
}

func TestAddZeros(t *testing.T) {
	zeros := make([]byte, 70000)
	for _, n := range []int{0, 1, 2, 7, 8, 255, 256, 65537, 70000} {
		for _, start := range []uint32{0, 1, 0xdeadbeef, 0xffffffff} {
			if got, want := addZeros(start, int64(n)), crc32.Update(start, castagnoli(), zeros[:n]); got != want {
				t.Errorf("addZeros(%08x, %d) = %08x; want %08x", start, n, got, want)
			}
		}
	}
}

// TestHugeSparseFile: a terabyte of nothing costs neither time nor space.
func TestHugeSparseFile(t *testing.T) {
	const size = 1 << 40
	s := open(t, t.TempDir())
	id := sandbox.NewID()
	st := begin(t, s, id)
	f, err := os.Create(filepath.Join(st.Dir(), "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatalf("making a sparse file: %v", err)
	}
	if _, err := f.WriteAt([]byte("data"), size/2); err != nil {
		t.Fatal(err)
	}
	f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m, err := st.Commit(ctx, manifest())
	if err != nil || m.Bytes() != size {
		t.Fatalf("Commit: %d bytes, %v", m.Bytes(), err)
	}
	if err := s.Verify(ctx, id, nil); err != nil {
		t.Fatalf("Verify: %v", err)
	}
	if used, err := s.DiskUsage(); err != nil || used > 1<<20 {
		t.Fatalf("DiskUsage: %d, %v", used, err)
	}
	// The data is not skipped with the holes.
	_, dir, err := s.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	if f, err = os.OpenFile(filepath.Join(dir, "disk.img"), os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("D"), size/2); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := s.Verify(ctx, id, nil); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("Verify of changed data among holes: %v", err)
	}
}

func TestVerifyCancelled(t *testing.T) {
	s := open(t, t.TempDir())
	id := sandbox.NewID()
	commit(t, s, id)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Verify(ctx, id, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("Verify: %v", err)
	}
}

func BenchmarkCommit300MiB(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{})
	b.SetBytes(300 << 20)
	for b.Loop() {
		b.StopTimer()
		st, err := s.Begin(sandbox.NewID())
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Create(filepath.Join(st.Dir(), "pages.img"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyN(f, r, 300<<20); err != nil {
			b.Fatal(err)
		}
		f.Close()
		b.StartTimer()
		m, err := st.Commit(b.Context(), manifest())
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		start := time.Now()
		if err := s.Verify(b.Context(), m.ID, nil); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "verify-ms")
		if err := s.Delete(m.ID); err != nil {
			b.Fatal(err)
		}
		syscall.Sync() // the next round starts with a disk that has nothing to do
		b.StartTimer()
	}
}
