// The cell's main.
int main(void) { return 0; }
