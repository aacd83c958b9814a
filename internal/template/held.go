package template

import "sync"

// Held keeps images from being removed that something needs which is not a snapshot yet: an image that was made has to
// live until a checkpoint of it is committed. Whoever holds an image then looks whether it is still there.
type Held struct {
	mu    sync.Mutex
	users map[string]int
}

// Hold keeps an image until release is called, once.
func (h *Held) Hold(imageID string) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users == nil {
		h.users = map[string]int{}
	}
	h.users[imageID]++
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.users[imageID]--; h.users[imageID] == 0 {
			delete(h.users, imageID)
		}
	})
}

// Collect calls f, which removes the images that are needed neither by a snapshot nor by who holds them. Nothing is held
// or let go meanwhile: an image that is let go has its snapshot by then.
func (h *Held) Collect(f func(held func(imageID string) bool) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return f(func(imageID string) bool { return h.users[imageID] > 0 })
}
