package fake

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
)

const (
	checkpointName = "memory.img"
	// minCheckpoint pads checkpoints to a size that shows on a full disk.
	minCheckpoint = 256 << 10
	headerBytes   = 12 // length of the payload and CRC-32 of everything after the header
)

// writeCheckpoint stores a guest as one file: header, JSON, padding.
func writeCheckpoint(dir string, g *guest) error {
	payload, err := json.Marshal(g)
	if err != nil {
		return err
	}
	data := make([]byte, max(headerBytes+len(payload), minCheckpoint))
	copy(data[headerBytes:], payload)
	binary.BigEndian.PutUint64(data, uint64(len(payload)))
	binary.BigEndian.PutUint32(data[8:], crc32.ChecksumIEEE(data[headerBytes:]))
	f, err := os.OpenFile(filepath.Join(dir, checkpointName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func readCheckpoint(dir string) (*guest, error) {
	data, err := os.ReadFile(filepath.Join(dir, checkpointName))
	if err != nil {
		return nil, err
	}
	if len(data) < minCheckpoint {
		return nil, errors.New("the checkpoint is truncated")
	}
	length := binary.BigEndian.Uint64(data)
	if length > uint64(len(data)-headerBytes) || crc32.ChecksumIEEE(data[headerBytes:]) != binary.BigEndian.Uint32(data[8:]) {
		return nil, errors.New("the checkpoint is damaged")
	}
	var g guest
	if err := json.Unmarshal(data[headerBytes:headerBytes+length], &g); err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	return &g, nil
}

func appendCount(b []byte, n int64) []byte { return append(strconv.AppendInt(b, n, 10), '\n') }
